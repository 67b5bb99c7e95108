import { useEffect, useRef, useState } from 'preact/hooks';
import { api } from './api.js';
import { html } from './html.js';
import { short } from './words.js';

const actions = {
  release: {
    name: 'Release',
    does: 'Closes its socket and frees it for any worker. Nothing is lost.',
    asks: 'Release this session?',
    means:
      'Its socket is closed and it has no owner. The next request claims it and opens a new socket; nothing is lost.',
  },
  'drop-anchor': {
    name: 'Drop anchor',
    does: 'Makes the next request go in full, on a new socket.',
    asks: 'Drop the upstream anchor?',
    means:
      'Its socket is closed and the last response id is no longer used. The next request is sent in full; where the context cannot be rebuilt exactly, it is refused.',
  },
  close: {
    name: 'Close',
    does: 'Ends the conversation here for good and frees its keys.',
    asks: 'Close this session permanently?',
    means:
      'A running turn is cancelled first, and its client gets an error. Its keys are freed. The next request with the same thread id starts a new conversation. This cannot be undone.',
  },
};

/** Renders the actions that an operator may take on a session. Each needs a confirmation. */
export function Actions({ session, done }) {
  const [wanted, want] = useState(null);
  const [said, say] = useState(null);
  const dialog = useRef(null);
  useEffect(() => {
    if (wanted) dialog.current?.showModal();
  }, [wanted]);
  const isOver = session.state === 'closed';
  const isBusy = session.activeTurnId !== null;
  /**
   * Returns the reason why an action is not available now, or an empty string. A close cancels the running turn first,
   * so it is available during a turn.
   */
  const whyNot = (action) => {
    if (isOver) return 'It is closed.';
    return isBusy && action !== 'close' ? 'A turn is running.' : '';
  };

  const act = async (event) => {
    event.preventDefault();
    const action = wanted;
    dialog.current.close();
    try {
      await api.act(session.id, action);
      say(`${actions[action].name}: done.`);
    } catch (error) {
      say(`${actions[action].name}: ${error.message}`);
    }
    done();
  };

  return html`
    <div class="actions">
      ${Object.entries(actions).map(
        ([action, { name }]) => html`
          <div key=${action}>
            <button
              class=${action === 'close' ? 'danger' : ''}
              disabled=${whyNot(action) !== ''}
              aria-describedby=${`does-${action}`}
              onClick=${() => want(action)}
            >
              ${name}…
            </button>
            <p id=${`does-${action}`}>${whyNot(action) || actions[action].does}</p>
          </div>
        `,
      )}
      <span role="status">${said}</span>
      ${
        wanted &&
        html`
          <dialog ref=${dialog} onClose=${() => want(null)} aria-labelledby="asks">
            <form method="dialog" onSubmit=${act}>
              <h3 id="asks">${actions[wanted].asks}</h3>
              <p>${actions[wanted].means}</p>
              <p class="quiet">Session <code>${short(session.id)}</code>. The action is written to the log.</p>
              <div class="choice">
                <button type="button" onClick=${() => dialog.current.close()}>Cancel</button>
                <button class=${wanted === 'close' ? 'danger' : 'primary'}>${actions[wanted].name}</button>
              </div>
            </form>
          </dialog>
        `
      }
    </div>
  `;
}

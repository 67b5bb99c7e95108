import { render } from 'preact';
import { useCallback, useEffect, useState } from 'preact/hooks';
import { api, token } from './api.js';
import { Failures } from './failures.js';
import { html } from './html.js';
import { Overview } from './overview.js';
import { goTo, readPlace } from './place.js';
import { Sessions } from './sessions.js';
import { TurnList } from './turnlist.js';
import { Workers } from './workers.js';

const EVERYTHING = { q: '', state: '', busy: '', owner: '' };

/** Loads the page of one session when it is first opened: it brings the layout of the machine. */
function useSessionPage(isOpen) {
  const [page, setPage] = useState(null);
  useEffect(() => {
    if (isOpen && !page) import('./session.js').then(({ Session }) => setPage(() => Session));
  }, [isOpen, page]);
  return page;
}

function App() {
  const [place, setPlace] = useState(readPlace);
  const [wish, setWish] = useState({ ...EVERYTHING, ...(place.view === 'sessions' ? place.filter : {}) });
  const [window, setWindow] = useState('15m');
  const Session = useSessionPage(place.view === 'sessions' && place.id !== null);
  // null: the request that shows whether this page has access is not answered yet. The pages ask at the same time.
  const [mayAsk, setMayAsk] = useState(null);
  const [trouble, setTrouble] = useState(null);

  const enter = useCallback(async () => {
    try {
      await api.workers();
      setTrouble(null);
      setMayAsk(true);
    } catch (error) {
      if (error.status === 401) setMayAsk(false);
      setTrouble(error);
    }
  }, []);
  useEffect(() => void enter(), [enter]);

  const forget = () => {
    token.forget();
    setMayAsk(false);
  };
  const open = useCallback((id) => goTo('sessions', id), []);
  const close = useCallback(() => {
    goTo('sessions', null);
    /** @type {HTMLElement | null} */ (document.querySelector('.rows'))?.focus();
  }, []);
  useEffect(() => {
    const onHash = () => {
      const next = readPlace();
      setPlace(next);
      if (next.view === 'sessions' && Object.keys(next.filter).length > 0) setWish({ ...EVERYTHING, ...next.filter });
    };
    const onKey = (event) => {
      const { view, id } = readPlace();
      if (event.key === 'Escape' && view === 'sessions' && id && !document.querySelector('dialog[open]')) close();
    };
    addEventListener('hashchange', onHash);
    addEventListener('keydown', onKey);
    return () => {
      removeEventListener('hashchange', onHash);
      removeEventListener('keydown', onKey);
    };
  }, [close]);

  if (mayAsk === false) return html`<${Gate} enter=${enter} refused=${token.get() !== null} />`;
  if (mayAsk === null && trouble) {
    return html`<${Unavailable} trouble=${trouble} again=${enter} />`;
  }
  const tab = (view, name) => html`
    <a href=${`#/${view}`} aria-current=${place.view === view ? 'page' : undefined}>${name}</a>
  `;
  const views = {
    overview: () => html`<main class="one"><${Overview} window=${window} setWindow=${setWindow} /></main>`,
    turns: () =>
      html`<main class="one"><${TurnList} key=${JSON.stringify(place.filter)} filter=${place.filter} /></main>`,
    failures: () => html`<main class="one"><${Failures} filter=${place.filter} /></main>`,
    workers: () => html`<main class="one"><${Workers} marked=${place.id} /></main>`,
    sessions: () => html`
      <main class=${place.id ? 'two' : 'one'}>
        <${Sessions} chosen=${place.id} open=${open} wish=${wish} setWish=${setWish} />
        ${
          place.id &&
          Session &&
          html`<${Session}
            key="session"
            id=${place.id}
            open=${open}
            close=${close}
          />`
        }
      </main>
    `,
  };
  return html`
    <header class="bar">
      <h1><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d="M2 3h3v4h6V3h3v10h-3V9.5H5V13H2z" /></svg>Holdfast</h1>
      <nav aria-label="Pages">${tab('overview', 'Overview')}${tab('sessions', 'Sessions')}${tab('turns', 'Turns')}${tab('failures', 'Failures')}${tab('workers', 'Workers')}</nav>
      <p class=${`keys ${place.view === 'sessions' ? '' : 'unused'}`} aria-hidden="true"><kbd>/</kbd> search <kbd>↑</kbd><kbd>↓</kbd> choose <kbd>↵</kbd> open <kbd>esc</kbd> back</p>
      <a class="inspector" href=${new URL('../../../inspect', import.meta.url).href}>Inspector</a>
      ${token.get() !== null && html`<button onClick=${forget}>Forget token</button>`}
    </header>
    ${views[place.view]()}
  `;
}

/** Renders the page of a worker that answers with an error, or not at all. */
function Unavailable({ trouble, again }) {
  const submit = (event) => {
    event.preventDefault();
    again();
  };
  return html`
    <main class="gate">
      <form onSubmit=${submit}>
        <h1>Holdfast</h1>
        <p class="trouble" role="alert">${trouble.message}</p>
        <button class="primary">Try again</button>
      </form>
    </main>
  `;
}

/** Renders the form for the admin token, which is kept in this tab's session storage only. */
function Gate({ enter, refused }) {
  const submit = (event) => {
    event.preventDefault();
    token.set(new FormData(event.currentTarget).get('token'));
    enter();
  };
  return html`
    <main class="gate">
      <form onSubmit=${submit} autocomplete="off">
        <h1>Holdfast</h1>
        <label>Admin token <input name="token" type="password" required autofocus /></label>
        <button class="primary">Open</button>
        ${refused && html`<p class="trouble" role="alert">The token is wrong.</p>`}
        <p class="quiet">
          The workers take it from <code>HOLDFAST_ADMIN_TOKEN</code>; this page keeps it for this tab only. Workers without
          a token answer only on their own machine, at a loopback address.
        </p>
      </form>
    </main>
  `;
}

render(html`<${App} />`, document.getElementById('app'));

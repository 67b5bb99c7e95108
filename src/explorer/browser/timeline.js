import { html } from './html.js';
import { clock, duration, short } from './words.js';

/** Renders the recorded events, newest first, so that new events appear at the top. */
export function Timeline({ timeline }) {
  if (!timeline) {
    return html`<p class="quiet">
      No events are recorded: the worker that ran the session has stopped or dropped them, and no turn ended badly.
    </p>`;
  }
  const { from, workerId, epoch, dropped, entries } = timeline;
  const where =
    from === 'memory' ? `recorded by worker ${short(workerId)}` : `stored by worker ${short(workerId)} after a bad end`;
  return html`
    <p class="quiet">Up to epoch ${epoch}, ${where}.</p>
    <ol class="timeline">
      ${entries
        .map((entry, index) => ({ ...entry, index, after: entries[index - 1] }))
        .reverse()
        .map(({ index, after, ...entry }) => html`<${Entry} key=${index + dropped} entry=${entry} after=${after} />`)}
      ${dropped > 0 && html`<li class="quiet">${dropped} earlier events are not remembered.</li>`}
    </ol>
  `;
}

function Entry({ entry, after }) {
  const { t, actor, event, says, meaning, state, moved, times } = entry;
  const isTurn = actor.startsWith('turn:');
  return html`
    <li class=${isTurn ? 'of-turn' : 'of-session'}>
      <time title=${new Date(t).toISOString()}>${clock(t, true)}</time>
      <div>
        <span class="event" title=${event}>${says}${times > 1 && ` (${times} times)`}</span>
        ${!isTurn && moved && html` <span class="leads">→ ${state}</span>`}
        ${after && t - after.t >= 1_000 && html` <span class="gap">after ${duration(t - after.t)}</span>`}
        ${meaning && html`<p>${meaning}</p>`}
      </div>
    </li>
  `;
}

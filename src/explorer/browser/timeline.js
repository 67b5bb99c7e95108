import { html } from './html.js';
import { clock, duration, short } from './words.js';

const ends = new Set(['complete', 'end_incomplete', 'fail', 'cancel', 'lose']);
const turnOf = ({ actor }) => (actor.startsWith('turn:') ? actor.slice(5) : null);

/**
 * Groups recorded events by the turn in which they happened, oldest first. Events of the session belong to the turn that
 * runs; those between two turns form a group without a turn.
 */
export function groupsOf(entries) {
  const groups = [];
  let running = null;
  for (const [index, entry] of entries.entries()) {
    const turn = turnOf(entry);
    if (turn !== null && (running === null || running === turn)) running = turn;
    const id = turn !== null && turn !== running ? turn : running;
    const last = groups.at(-1);
    if (last && last.turn === id) last.entries.push({ ...entry, index });
    else groups.push({ turn: id, entries: [{ ...entry, index }] });
    if (turn !== null && turn === running && ends.has(entry.event)) running = null;
  }
  return groups;
}

/** Renders the recorded events by turn, the last turn first. Choosing an event shows the machine at that time. */
export function Timeline({ timeline, at, choose }) {
  if (!timeline) {
    return html`<p class="quiet">
      No events are recorded: the worker that ran the session has stopped or dropped them, and no turn ended badly.
    </p>`;
  }
  const { from, workerId, epoch, dropped, entries } = timeline;
  const where =
    from === 'memory' ? `recorded by worker ${short(workerId)}` : `stored by worker ${short(workerId)} after a bad end`;
  const groups = groupsOf(entries).reverse();
  return html`
    <p class="quiet">Up to epoch ${epoch}, ${where}. Choosing an event shows the machine at that time.</p>
    ${groups.map(({ turn, entries: own }, place) => {
      const took = own.at(-1).t - own[0].t;
      return html`
        <details key=${`${turn}${own[0].index + dropped}`} class="group" open=${place < 2 || own.some(({ index }) => index === at)}>
          <summary>
            ${turn ? html`Turn <code title=${turn}>${short(turn)}</code>` : 'Between turns'}
            <span class="quiet"> ${clock(own[0].t)} · ${own.length} ${own.length === 1 ? 'event' : 'events'}${took > 0 ? ` · ${duration(took)}` : ''}</span>
          </summary>
          <ol class="timeline">
            ${own.map((entry) => html`<${Entry} key=${entry.index + dropped} entry=${entry} before=${entries[entry.index - 1]} isChosen=${entry.index === at} choose=${choose} />`)}
          </ol>
        </details>
      `;
    })}
    ${dropped > 0 && html`<p class="quiet">${dropped} earlier events are not remembered.</p>`}
  `;
}

function Entry({ entry, before, isChosen, choose }) {
  const { t, event, says, meaning, state, moved, times, index } = entry;
  const isTurn = turnOf(entry) !== null;
  return html`
    <li class=${`${isTurn ? 'of-turn' : 'of-session'} ${isChosen ? 'chosen' : ''}`}>
      <time title=${new Date(t).toISOString()}>${clock(t, true)}</time>
      <div>
        <button class="event" title=${event} aria-pressed=${isChosen} onClick=${() => choose(index)}>${says}${times > 1 && ` (${times} times)`}</button>
        ${!isTurn && moved && html` <span class="leads">→ ${state}</span>`}
        ${before && t - before.t >= 1_000 && html` <span class="gap">after ${duration(t - before.t)}</span>`}
        ${meaning && html`<p>${meaning}</p>`}
      </div>
    </li>
  `;
}

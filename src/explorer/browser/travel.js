import { html } from './html.js';
import { clock, duration } from './words.js';

/** Returns the state of the machine at a recorded event: that of the last event of the session's own actor until then. */
export function momentOf(entries, at) {
  const until = entries.slice(0, at + 1);
  const last = until.findLast(({ active }) => active.length > 0) ?? null;
  const taken = until.findLast(({ active, moved }) => active.length > 0 && moved) ?? null;
  return {
    entry: until.at(-1) ?? null,
    active: last?.active ?? [],
    taken,
    context: until.findLast((each) => each.context !== null)?.context ?? null,
  };
}

const shown = (fields) =>
  Object.entries(fields).map(([name, value]) => html`<li key=${name}><code>${name}</code> ${String(value)}</li>`);

/**
 * Renders the slider over the recorded events with what happened at the chosen one.
 *
 * @param at index of the chosen event; null follows the newest one
 */
export function Travel({ entries, at, go }) {
  const last = entries.length - 1;
  const here = at ?? last;
  const { entry, context } = momentOf(entries, here);
  if (!entry) return null;
  const before = entries[here - 1];
  const text = `${clock(entry.t, true)}, ${entry.says}, ${entry.state}`;
  const to = (index) => go(index >= last ? null : Math.max(0, index));
  return html`
    <div class="travel">
      <div class="slider">
        <button aria-label="First event" title="First event" disabled=${here === 0} onClick=${() => to(0)}>«</button>
        <button aria-label="Event before" title="Event before" disabled=${here === 0} onClick=${() => to(here - 1)}>‹</button>
        <input
          type="range"
          min="0"
          max=${last}
          value=${here}
          aria-label="Recorded event"
          aria-valuetext=${text}
          onInput=${(event) => to(Number(event.currentTarget.value))}
        />
        <button aria-label="Event after" title="Event after" disabled=${here === last} onClick=${() => to(here + 1)}>›</button>
        <button aria-pressed=${at === null} title="Follow the newest event" onClick=${() => go(null)}>now</button>
      </div>
      <p class="moment">
        <time>${clock(entry.t, true)}</time>
        <span class="quiet">${here + 1} of ${entries.length}${before ? `, ${duration(entry.t - before.t)} after the one before` : ''}</span>
        <strong>${entry.says}</strong> <span class="leads">→ ${entry.state}</span>
      </p>
      ${entry.meaning && html`<p class="quiet">${entry.meaning}</p>`}
      <dl class="at-event">
        <div><dt>Event</dt><dd><ul><li><code>${entry.event}</code></li>${entry.fields && shown(entry.fields)}</ul></dd></div>
        <div><dt>Context after it</dt><dd>${context ? html`<ul>${shown(context)}</ul>` : html`<span class="quiet">not known</span>`}</dd></div>
        ${entry.effects !== undefined && html`<div><dt>Effects</dt><dd>${entry.effects === null ? html`<span class="quiet">${entry.active.length === 0 ? 'a turn has none' : 'not known'}</span>` : entry.effects.length === 0 ? html`<span class="quiet">none</span>` : html`<ul>${entry.effects.map((name, index) => html`<li key=${index}><code>${name}</code></li>`)}</ul>`}</dd></div>`}
      </dl>
    </div>
  `;
}

import { html } from './html.js';
import { duration } from './words.js';

/** Parts of a turn's time, with the field of `facts` in which each ends. All count from the request being read. */
const parts = [
  ['placedMs', 'placing', 'Holdfast recognised the conversation and chose a session.'],
  ['begunMs', 'queue', 'An earlier turn of the session was running.'],
  ['readyMs', 'connect', 'A socket to the upstream was opened.'],
  ['startedMs', 'commit', 'The start was stored.'],
  ['heldMs', 'send', 'The frame was sent.'],
  ['firstEventMs', 'first event', 'The upstream had not begun to answer.'],
  ['totalMs', 'stream', 'The answer was streamed, and its end stored.'],
];

/** Returns the parts of a turn's time that are known, in order. A part whose end is not known is added to the next one. */
export function partsOf(facts) {
  let from = 0;
  return parts.flatMap(([field, name, says]) => {
    const to = facts[field];
    if (to === null || to === undefined) return [];
    const part = { name, says, from, ms: Math.max(0, to - from) };
    from = Math.max(from, to);
    return [part];
  });
}

const classOf = (name) => `part-${name.replace(' ', '-')}`;

/**
 * Renders the time of a turn as a bar.
 *
 * @param longest time that fills the whole width, in milliseconds
 */
export function TimeBar({ facts, longest }) {
  const known = partsOf(facts);
  const words = known.map(({ name, ms }) => `${name} ${duration(ms)}`).join(', ');
  return html`
    <svg class="bar-of-time" viewBox="0 0 1000 14" preserveAspectRatio="none" role="img" aria-label=${words}>
      <title>${words}</title>
      ${known.map(
        ({ name, from, ms }) => html`
          <rect key=${name} class=${classOf(name)} x=${(from / longest) * 1_000} y="2" height="10" width=${Math.max(ms > 0 ? 4 : 0, (ms / longest) * 1_000)} />
        `,
      )}
    </svg>
  `;
}

/** Renders the names of the parts with their colours. */
export const TimeLegend = () => html`
  <ul class="legend" aria-label="Parts of a turn's time">
    ${parts.map(([, name, says]) => html`<li key=${name} title=${says}><i class=${`swatch ${classOf(name)}`} aria-hidden="true"></i>${name}</li>`)}
  </ul>
`;

/** Renders the exact times of a turn. */
export const TimeTable = ({ facts }) => html`
  <dl class="times">
    ${partsOf(facts).map(
      ({ name, says, ms }) => html`
        <div key=${name} title=${says}>
          <dt><i class=${`swatch ${classOf(name)}`} aria-hidden="true"></i>${name}</dt>
          <dd>${duration(ms)}</dd>
        </div>
      `,
    )}
  </dl>
`;

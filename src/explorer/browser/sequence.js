import { useEffect, useRef } from 'preact/hooks';
import { html } from './html.js';
import { clock } from './words.js';

/** Participants of a conversation, in the order of their lanes. */
const LANES = ['client', 'turn', 'session', 'store', 'upstream'];
/** Sender of an event of the session's machine, by the first part of its name. Others concern the session itself. */
const senders = {
  turn: 'turn',
  client: 'client',
  socket: 'upstream',
  upstream: 'upstream',
  store: 'store',
  operator: 'operator',
  worker: 'worker',
};
/** Sender and receiver of an event of a turn's machine. */
const ofTurn = {
  'xstate.init': ['client', 'turn', 'request'],
  queue: ['turn', 'session', 'queue'],
  hand_back: ['session', 'turn', 'hand_back'],
  commit: ['session', 'turn', 'commit'],
  send: ['session', 'turn', 'send'],
  acknowledge: ['upstream', 'turn', 'acknowledge'],
  stream: ['turn', 'client', 'stream'],
};
const turnEnds = new Set(['complete', 'end_incomplete', 'fail', 'cancel', 'lose']);

/** Message that the session sends when it enters a state. */
/** @type {[RegExp, string, string][]} */
const requests = [
  [/^(connecting|reconnecting\.\w+)\.dialing$/, 'upstream', 'dial'],
  [/^live\.committing\.asking$/, 'store', 'start'],
  [/^live\.committing\.clearing$/, 'store', 'end the orphan'],
  [/^live\.streaming$/, 'upstream', 'frame'],
  [/^(live|reconnecting)\.settling\.asking$/, 'store', 'settle'],
  [/^(live|reconnecting)\.settling\.bare$/, 'store', 'settle without content'],
];

const isTurn = (id) => id.startsWith('turn:');
const isSession = (id) => id.startsWith('session:');

/**
 * Converts observed events to the messages of a sequence diagram. Those of Holdfast's own machines are shown between the
 * participants of a conversation; those of other machines between the actors themselves.
 */
export function messagesOf(events, actors) {
  const before = new Map();
  return events.flatMap((each) => {
    const { actor, kind, event, source, active } = each;
    const message = (from, to, text, isRequest = false) => ({ ...each, from, to, text, isRequest });
    if (isSession(actor) || isTurn(actor)) {
      if (kind !== 'snapshot') {
        if (kind === 'actor') before.set(actor, new Set(active));
        return kind === 'actor' && isTurn(actor) ? [message('client', 'turn', 'request')] : [];
      }
      if (isTurn(actor)) {
        if (turnEnds.has(event)) return [message('turn', 'client', event)];
        const [from, to, text] = ofTurn[event] ?? ['turn', 'turn', event];
        return [message(from, to, text)];
      }
      const entered = active.filter((path) => !before.get(actor)?.has(path));
      before.set(actor, new Set(active));
      const from = event === 'xstate.init' ? 'session' : (senders[event.split('.')[0]] ?? 'session');
      const sent = requests.flatMap(([pattern, to, text]) =>
        entered.some((path) => pattern.test(path)) ? [message('session', to, text, true)] : [],
      );
      return [message(from, 'session', event), ...sent];
    }
    if (kind === 'event') return [message(source && actors.has(source) ? source : actor, actor, event)];
    return kind === 'actor' ? [message(actors.get(actor)?.parentId ?? actor, actor, 'started')] : [];
  });
}

const ROW = 30;
const LANE = 148;
const TIME = 92;

/** Renders the messages from the oldest to the newest. Choosing one shows the machine after it. */
export function Sequence({ messages, actors, chosen, choose }) {
  const frame = useRef(null);
  const follows = useRef(true);
  const used = new Set(messages.flatMap(({ from, to }) => [from, to]));
  const lanes = [...LANES.filter((lane) => used.has(lane)), ...[...used].filter((lane) => !LANES.includes(lane))];
  const at = new Map(lanes.map((lane, index) => [lane, TIME + index * LANE + LANE / 2]));
  // A message of the last participant to itself is written beside its lane.
  const width = TIME + lanes.length * LANE + LANE;
  const height = messages.length * ROW + 10;
  useEffect(() => {
    const box = frame.current;
    if (box && follows.current) box.scrollTop = box.scrollHeight;
  }, [messages.length]);
  if (messages.length === 0) return html`<p class="quiet">No message has been observed yet.</p>`;
  return html`
    <div
      class="sequence"
      ref=${frame}
      tabindex="0"
      role="region"
      aria-label="Sequence diagram"
      onScroll=${({ currentTarget: box }) => (follows.current = box.scrollHeight - box.scrollTop - box.clientHeight < 40)}
    >
      <svg class="lanes" width=${width} height="30" aria-hidden="true">
        ${lanes.map((lane) => html`<text key=${lane} x=${at.get(lane)} y="19" text-anchor="middle">${(actors.get(lane)?.name ?? lane).slice(0, 20)}</text>`)}
      </svg>
      <svg width=${width} height=${height} role="group" aria-label="Messages, the oldest first">
        <defs>
          <marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
            <path d="M0 0.8L7.4 4L0 7.2z" fill="context-stroke" />
          </marker>
        </defs>
        ${lanes.map((lane) => html`<path key=${lane} class="lane" d=${`M${at.get(lane)} 0V${height}`} />`)}
        ${messages.map((message, row) => html`<${Message} key=${`${message.number}${message.isRequest}${message.text}`} message=${message} y=${row * ROW + 20} at=${at} isChosen=${message.number === chosen} choose=${choose} />`)}
      </svg>
    </div>
  `;
}

function Message({ message, y, at, isChosen, choose }) {
  const { t, from, to, text, number, actor, isRequest } = message;
  const [start, end] = [at.get(from), at.get(to)];
  const isOwn = start === end;
  const time = clock(t, true);
  // The name begins with the visible text, for those who speak to their browser.
  const label = `${time} ${text}, from ${from} to ${to}`;
  const act = () => choose(actor, number);
  return html`
    <g
      class=${`message ${isRequest ? 'request' : ''} ${isChosen ? 'chosen' : ''}`}
      tabindex="0"
      role="button"
      aria-label=${label}
      onClick=${act}
      onKeyDown=${(event) => {
        if (event.key !== 'Enter' && event.key !== ' ') return;
        event.preventDefault();
        act();
      }}
    >
      <rect class="reach" x="0" y=${y - 18} width="100%" height=${ROW} />
      <text class="time" x="6" y=${y}>${`${time} `}</text>
      ${
        isOwn
          ? html`<path class="line" d=${`M${start} ${y - 8}h14v8h-12`} marker-end="url(#head)" />`
          : html`<path class="line" d=${`M${start} ${y + 4}H${end + (end > start ? -2 : 2)}`} marker-end="url(#head)" />`
      }
      <text x=${isOwn ? start + 20 : (start + end) / 2} y=${isOwn ? y : y - 1} text-anchor=${isOwn ? 'start' : 'middle'}>${text}</text>
    </g>
  `;
}

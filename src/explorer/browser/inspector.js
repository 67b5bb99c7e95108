import { render } from 'preact';
import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { api, token } from './api.js';
import { Chart } from './chart.js';
import { createFeed } from './feed.js';
import { html } from './html.js';
import { messagesOf, Sequence } from './sequence.js';
import { momentOf, Travel } from './travel.js';
import { clock, count } from './words.js';

/** Most messages drawn, and most events listed; the newest ones. */
const MOST_DRAWN = 300;

const root = new URL('../../../', import.meta.url);

/** Connects to the worker that serves this page. Returns a function that disconnects. */
async function connect({ sessions, sample }, take, say) {
  const wish = new URLSearchParams();
  for (const id of sessions.split(/[\s,]+/)) if (id) wish.append('session', id);
  if (sample) wish.set('sample', sample);
  wish.set('ticket', (await api.ticket()).ticket);
  const address = new URL(`inspect/socket?${wish}`, root);
  address.protocol = address.protocol.replace('http', 'ws');
  const socket = new WebSocket(address);
  socket.onopen = () => say('watching this worker');
  socket.onmessage = ({ data }) => take(JSON.parse(data));
  socket.onclose = () => say('disconnected');
  return () => {
    socket.onclose = null;
    socket.close();
  };
}

/** Receives what the page that opened this window inspects, as `createBrowserInspector` sends it. */
function receive(take, say) {
  const { opener } = window;
  if (!opener) return () => {};
  const onMessage = ({ source, data }) => {
    if (source !== opener) return;
    say('watching the page that opened this window');
    take(data);
  };
  addEventListener('message', onMessage);
  opener.postMessage({ type: '@statelyai.connected' }, '*');
  return () => removeEventListener('message', onMessage);
}

/** Keeps the feed, and renders at most once a frame. */
function useFeed() {
  const [feed] = useState(createFeed);
  const [, setTaken] = useState(0);
  const asked = useRef(0);
  const take = (message) => {
    feed.take(message);
    asked.current ||= requestAnimationFrame(() => {
      asked.current = 0;
      setTaken(feed.taken);
    });
  };
  return { feed, take };
}

const named = new URLSearchParams(location.search).getAll('session');
const start = { sessions: named.join(' '), sample: '1' };

function App() {
  const { feed, take } = useFeed();
  const [wish, setWish] = useState(start);
  const [status, say] = useState('not connected');
  const [trouble, setTrouble] = useState(null);
  const [chosen, setChosen] = useState(null);
  const [number, setNumber] = useState(null);
  const disconnect = useRef(() => {});
  const first = useRef(null);

  const watch = async (next) => {
    disconnect.current();
    say('connecting…');
    setTrouble(null);
    try {
      disconnect.current = await connect(next, take, say);
    } catch (error) {
      say('not connected');
      setTrouble(error.status === 401 ? 'The admin token is missing or wrong.' : error.message);
    }
  };
  useEffect(() => {
    const stop = receive(take, say);
    if (!window.opener) watch(start);
    return () => {
      stop();
      disconnect.current();
    };
  }, []);

  const submit = (event) => {
    event.preventDefault();
    const form = new FormData(event.currentTarget);
    const given = String(form.get('token') ?? '');
    if (given) token.set(given);
    const next = { sessions: String(form.get('sessions') ?? ''), sample: String(form.get('sample') ?? '') };
    setWish(next);
    watch(next);
  };
  const actors = [...feed.actors.values()];
  const actor = feed.actors.get(chosen) ?? liveliest(actors, first);
  const stately = new URL(`inspect/stately?${new URLSearchParams(named.map((id) => ['session', id]))}`, root).href;
  const choose = (id, at) => {
    setChosen(id);
    setNumber(at);
  };
  return html`
    <header class="bar">
      <h1><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true"><path d="M2 3h3v4h6V3h3v10h-3V9.5H5V13H2z" /></svg>Inspector</h1>
      <nav aria-label="Pages"><a href=${new URL('admin/ui', root).href}>Explorer</a></nav>
      <a class="inspector" href=${stately} title="Loads a page of another host, which shows the same events.">Stately inspector ↗</a>
    </header>
    <main class="inspection">
      <form class="source" onSubmit=${submit} autocomplete="off">
        <label>Sessions <input name="sessions" size="38" value=${wish.sessions} placeholder="ids; empty: a sample of all" spellcheck="false" /></label>
        <label>Sample <input name="sample" type="number" min="0" max="1" step="0.01" value=${wish.sample} /></label>
        <label>Admin token <input name="token" type="password" size="12" placeholder=${token.get() ? 'kept for this tab' : 'if there is one'} /></label>
        <button class="primary">Watch</button>
        <output role="status">${status}, ${count(feed.taken)} ${feed.taken === 1 ? 'message' : 'messages'}</output>
        ${trouble && html`<p class="trouble" role="alert">${trouble}</p>`}
      </form>
      <${Actors} actors=${actors} chosen=${actor?.id ?? null} choose=${(id) => choose(id, null)} />
      ${actor ? html`<${Watched} key=${actor.id} actor=${actor} feed=${feed} number=${number} choose=${choose} />` : html`<${Nothing} />`}
    </main>
  `;
}

/**
 * Returns the actor shown while none is chosen: the first session, or machine of another program, with an event. It stays
 * the same from then on.
 */
function liveliest(actors, first) {
  const shown = actors.filter(({ id, outline }) => outline && !id.startsWith('worker:') && !id.startsWith('turn:'));
  const known = shown.find(({ id }) => id === first.current);
  if (known && known.count > 1) return known;
  const found = shown.find(({ count: messages }) => messages > 1) ?? known ?? shown[0] ?? actors[0] ?? null;
  first.current = found?.id ?? null;
  return found;
}

const Nothing = () => html`
  <section class="nothing">
    <h2>No machine has reported yet</h2>
    <p>Sessions appear when a request arrives. Machines of your own can be watched here too:</p>
    <pre tabindex="0" role="region" aria-label="Program">${`import { createBrowserInspector } from '@statelyai/inspect';        // in a web page
const { inspect } = createBrowserInspector({ url: '${new URL('inspect', root).href}' });

import { createWebSocketInspector } from '@statelyai/inspect';      // in Node
const { inspect } = createWebSocketInspector({ url: '${new URL('inspect/source', root).href.replace('http', 'ws')}' });

createActor(machine, { inspect }).start();`}</pre>
  </section>
`;

/** Renders the actors as a tree: children below their parents. */
function Actors({ actors, chosen, choose }) {
  const known = new Set(actors.map(({ id }) => id));
  const below = Map.groupBy(actors, ({ parentId }) => (parentId !== null && known.has(parentId) ? parentId : null));
  const entry = (actor, depth) => html`
    <li key=${actor.id}>
      <button class=${`actor depth${Math.min(depth, 3)} ${actor.status === 'active' ? '' : 'over'}`} aria-pressed=${actor.id === chosen} title=${actor.id} onClick=${() => choose(actor.id)}>
        <span>${actor.name}</span>
        <span class="quiet">${actor.status === 'active' ? shortState(actor.value) : actor.status}</span>
      </button>
    </li>
    ${(below.get(actor.id) ?? []).map((child) => entry(child, depth + 1))}
  `;
  return html`
    <section class="actors" aria-label="Actors">
      <h2>Actors <span class="quiet">${count(actors.length)}</span></h2>
      <ul>${(below.get(null) ?? []).map((actor) => entry(actor, 0))}</ul>
    </section>
  `;
}

const shortState = (value) => {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null) return '';
  const [name, below] = Object.entries(value)[0] ?? [''];
  return typeof below === 'string'
    ? `${name}.${below}`
    : `${name}.${typeof below === 'object' && below ? Object.keys(below)[0] : ''}`;
};

/** Renders one actor: its chart at the chosen event, what was exchanged around it, its events and its snapshot. */
function Watched({ actor, feed, number, choose }) {
  const [part, setPart] = useState('sequence');
  const entries = useMemo(
    () =>
      feed.events
        .filter((each) => each.actor === actor.id && each.snapshot !== null)
        .map((each) => ({
          ...each,
          says: each.event,
          meaning: null,
          context: each.snapshot.context ?? null,
          effects: undefined,
        })),
    [feed.taken, actor.id],
  );
  const related = useMemo(() => {
    const family = familyOf(actor, feed.actors);
    return feed.events.filter((each) => family.has(each.actor));
  }, [feed.taken, actor.id]);
  const messages = useMemo(() => messagesOf(related, feed.actors).slice(-MOST_DRAWN), [related]);
  const found = number === null ? -1 : entries.findLastIndex((each) => each.number <= number);
  const at = found < 0 ? null : found;
  const moment = momentOf(entries, at ?? entries.length - 1);
  const snapshot = entries[at ?? entries.length - 1]?.snapshot ?? actor.snapshot ?? null;
  const parts = { sequence: 'Sequence', events: 'Events', snapshot: 'Snapshot' };
  return html`
    <article class="watched" aria-label=${actor.name}>
      <h2>${actor.name} <span class="quiet">${moment.entry?.state ?? ''}</span></h2>
      <h3 class="sr">Statechart</h3>
      ${
        actor.outline
          ? html`<${Chart} outline=${actor.outline} active=${moment.active} taken=${moment.taken} caption=${`The machine of ${actor.name}; active: ${moment.active.join(', ')}`} />`
          : html`<p class="quiet">Its definition was not reported: there is no chart.</p>`
      }
      ${entries.length > 0 && html`<${Travel} entries=${entries} at=${at} go=${(index) => choose(actor.id, index === null ? null : entries[index].number)} />`}
      <div class="filter" role="group" aria-label="Shown below">
        ${Object.entries(parts).map(([name, words]) => html`<button key=${name} aria-pressed=${part === name} onClick=${() => setPart(name)}>${words}</button>`)}
      </div>
      ${part === 'sequence' && html`<${Sequence} messages=${messages} actors=${feed.actors} chosen=${at === null ? null : entries[at].number} choose=${choose} />`}
      ${part === 'events' && html`<${Events} events=${related.slice(-MOST_DRAWN)} actors=${feed.actors} choose=${choose} />`}
      ${part === 'snapshot' && html`<pre class="json" tabindex="0">${JSON.stringify(snapshot, null, 2)}</pre>`}
    </article>
  `;
}

/** Returns the ids of an actor, its parent, and all that are below either. */
function familyOf(actor, actors) {
  const top = actor.parentId !== null && actors.has(actor.parentId) ? actor.parentId : actor.id;
  const family = new Set([top, actor.id]);
  for (let size = 0; size !== family.size; ) {
    size = family.size;
    for (const { id, parentId } of actors.values()) if (family.has(parentId)) family.add(id);
  }
  return family;
}

const Events = ({ events, actors, choose }) => html`
  <div class="scroll tall" tabindex="0" role="region" aria-label="Events">
    <table>
      <thead><tr><th scope="col">Time</th><th scope="col">Actor</th><th scope="col">Kind</th><th scope="col">Event</th><th scope="col">State after it</th></tr></thead>
      <tbody>
        ${events.toReversed().map(
          (each) => html`
            <tr key=${each.number}>
              <td>${clock(each.t, true)}</td>
              <td>${actors.get(each.actor)?.name ?? each.actor}</td>
              <td class="quiet">${each.kind}</td>
              <td><button class="link" onClick=${() => choose(each.actor, each.number)}>${each.event}</button> ${each.fields && html`<code class="quiet">${JSON.stringify(each.fields).slice(0, 120)}</code>`}</td>
              <td>${each.state}</td>
            </tr>
          `,
        )}
      </tbody>
    </table>
  </div>
`;

render(html`<${App} />`, document.getElementById('app'));

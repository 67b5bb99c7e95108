import { useEffect, useState } from 'preact/hooks';
import { Actions } from './actions.js';
import { api } from './api.js';
import { Chart } from './chart.js';
import { html } from './html.js';
import { hrefOf } from './place.js';
import { usePoll } from './poll.js';
import { State } from './state.js';
import { Timeline } from './timeline.js';
import { momentOf, Travel } from './travel.js';
import { Turns } from './turns.js';
import { ago, duration, full, short } from './words.js';

/** Renders all data of one session. */
export function Session({ id, open, close }) {
  const { data: outline } = usePoll(api.machine, 86_400_000, 'machine');
  const { data, error, refresh } = usePoll((signal) => api.session(id, signal), 1_000, id);
  if (!data) {
    const text = error ? error.message : 'Loading…';
    return html`
      <article class="session" aria-label="Session">
        <${Head} id=${id} close=${close} />
        <p class=${error ? 'trouble' : 'quiet'} role=${error ? 'alert' : undefined}>${text}</p>
        ${error?.status === 404 && html`<p><a href=${hrefOf('failures', null, { q: id })}>Look for it among the failures</a></p>`}
      </article>
    `;
  }
  const { session, unstored, owner, actor, turns, forks, origin, keys, timeline, why, exit } = data;
  const stored = session ?? null;
  const top = stored?.state ?? unstored.state.split('.')[0];
  const ownerId = stored ? stored.ownerWorkerId : owner?.id;
  return html`
    <article class="session" aria-labelledby="session-title">
      <${Head} id=${id} state=${top} detail=${actor?.state ?? unstored?.state} close=${close} />
      ${error && html`<p class="trouble" role="alert">${error.message} The data below may be outdated.</p>`}
      <div class="standing">
        <p><strong>Why.</strong> ${why}</p>
        <p><strong>Next.</strong> ${exit}</p>
      </div>
      <dl class="facts">
        <${Fact} name="Owner">
          ${
            owner
              ? html`<a href=${hrefOf('workers', owner.id)} title=${owner.id}><code>${short(owner.id)}</code></a>${owner.state !== 'serving' && html` <span class="bad">${owner.state}</span>`}${owner.here && html` <span class="tag" title="The worker that answers this page.">here</span>`}`
              : ownerId
                ? html`<code>${short(ownerId)}</code> <span class="quiet">without a row</span>`
                : html`<span class="quiet">none</span>`
          }
        </${Fact}>
        <${Fact} name="Lease left">${owner ? html`<span class=${owner.leaseLeftMs < 0 ? 'bad' : ''}>${duration(owner.leaseLeftMs)}</span>` : '–'}</${Fact}>
        <${Fact} name="Epoch">${(stored ?? unstored).epoch}</${Fact}>
        <${Fact} name="Model">${(stored ?? unstored).model ?? '–'}</${Fact}>
        ${stored ? html`<${StoredFacts} session=${stored} actor=${actor} keys=${keys} />` : html`<${Fact} name="Waiting since">${full(unstored.since)}</${Fact}>`}
      </dl>
      ${stored && html`<${Actions} key=${id} session=${stored} done=${refresh} />`}
      ${
        stored &&
        html`<section aria-label="Conversation">
          <h3>Conversation</h3>
          <${Turns} session=${stored} turns=${turns} forks=${forks} origin=${origin} open=${open} />
        </section>`
      }
      <${History} key=${`history-${id}`} outline=${outline} state=${actor?.state ?? unstored?.state ?? top} epoch=${actor?.epoch ?? unstored?.epoch} timeline=${timeline} answered=${Boolean(actor) || !stored || top === 'closed'} />
    </article>
  `;
}

/**
 * Renders the machine and the recorded events. The slider and the list choose the same event; the machine then shows the
 * states at that time.
 */
function History({ outline, state, epoch, timeline, answered }) {
  // Events are identified by their place since the record began, so that the choice stays when older ones are dropped.
  const [chosen, choose] = useState(null);
  const entries = timeline?.entries ?? [];
  const dropped = timeline?.dropped ?? 0;
  const index = chosen === null ? null : chosen - dropped;
  useEffect(() => {
    if (index !== null && (index < 0 || index >= entries.length)) choose(null);
  }, [index, entries.length]);
  const at = index !== null && index >= 0 && index < entries.length ? index : null;
  const go = (to) => choose(to === null ? null : to + dropped);
  const moment = momentOf(entries, at ?? entries.length - 1);
  // Without a choice, what the owner answers counts: the record may be that of an earlier worker.
  const isOfActor = epoch !== undefined && timeline?.epoch === epoch && timeline?.from === 'memory';
  const shows = at !== null || isOfActor ? moment : { active: pathsOf(state), taken: null };
  const active = shows.active.length > 0 ? shows.active : pathsOf(state);
  return html`
    <section aria-label="State machine">
      <h3>Machine ${at !== null && html`<span class="tag past">as it was</span>`}</h3>
      ${outline && html`<${Chart} outline=${outline} active=${active} taken=${shows.taken} caption=${`The session machine; active: ${active.join(', ')}`} />`}
      ${entries.length > 0 && html`<${Travel} entries=${entries} at=${at} go=${go} />`}
      ${!answered && html`<p class="quiet">From its row; no actor answered.</p>`}
    </section>
    <section aria-label="Timeline">
      <h3>Timeline</h3>
      <${Timeline} timeline=${timeline} at=${at} choose=${go} />
    </section>
  `;
}

const StoredFacts = ({ session, actor, keys }) => html`
  <${Fact} name="Socket">${actor?.socketOpen ? `open for ${duration(actor.socketAgeMs)}` : actor ? 'none' : html`<span class="quiet">${session.ownerWorkerId ? 'its owner does not answer' : 'none'}</span>`}</${Fact}>
  <${Fact} name="Waiting">${actor ? actor.queueLength : '–'}</${Fact}>
  <${Fact} name="Turns">${session.turnCount}</${Fact}>
  <${Fact} name="Scope"><code title=${session.scope}>${session.scope.slice(0, 17)}</code></${Fact}>
  <${Fact} name="Found by">${keys.length > 0 ? keys.map(({ kind, hash }) => html`<span key=${hash} title=${`${kind} key, SHA-256 ${hash}…`}>${kind} <code>${hash.slice(0, 8)}</code> </span>`) : html`<span class="quiet">its response ids</span>`}</${Fact}>
  <${Fact} name="Changed, ago"><time title=${full(session.updatedAt)}>${ago(session.updatedAt)}</time></${Fact}>
  <${Fact} name="Created, ago"><time title=${full(session.createdAt)}>${ago(session.createdAt)}</time></${Fact}>
`;

/** Returns a dotted state and the states around it. */
const pathsOf = (state) => state.split('.').map((_, index, names) => names.slice(0, index + 1).join('.'));

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

const inspector = (id) => new URL(`../../../inspect?session=${encodeURIComponent(id)}`, import.meta.url).href;

const Head = ({ id, state = null, detail = undefined, close }) => html`
  <header>
    <h2 id="session-title">
      <span class="quiet">Session</span> <code>${id}</code>
    </h2>
    ${state && html`<${State} state=${state} detail=${detail} />`}
    <a class="watch" href=${inspector(id)} title="Watch its machine and its messages live.">inspect</a>
    <button class="close" onClick=${close} aria-label="Back to the list (Escape)" title="Escape">✕</button>
  </header>
`;

import { Actions } from './actions.js';
import { api } from './api.js';
import { Chart } from './chart.js';
import { html } from './html.js';
import { usePoll } from './poll.js';
import { Timeline } from './timeline.js';
import { Turns } from './turns.js';
import { ago, duration, full, short } from './words.js';

/** Renders all data of one session. */
export function Session({ id, outline, open, close, openWorker }) {
  const { data, error, refresh } = usePoll((signal) => api.session(id, signal), 1_000, id);
  if (!data) {
    const text = error ? (error.status === 404 ? 'There is no such session.' : error.message) : 'Loading…';
    return html`<article class="session"><${Head} id=${id} close=${close} /><p class="quiet">${text}</p></article>`;
  }
  const { session, owner, actor, turns, forks, origin, keys, timeline, why, exit } = data;
  const steps = (timeline?.entries ?? []).filter(({ actor: who }) => who === `session@${actor?.epoch}`);
  const state = actor?.state ?? session.state;
  const active = actor && steps.length > 0 ? steps.at(-1).active : pathsOf(state);
  const taken = actor ? (steps.findLast(({ moved }) => moved) ?? null) : null;

  return html`
    <article class="session" aria-labelledby="session-title">
      <${Head} id=${id} state=${session.state} detail=${actor?.state} close=${close} />
      ${error && html`<p class="trouble" role="alert">${error.message} The data below may be outdated.</p>`}
      <div class="standing">
        <p><strong>Why.</strong> ${why}</p>
        <p><strong>Next.</strong> ${exit}</p>
      </div>
      <dl class="facts">
        <${Fact} name="Owner">
          ${
            owner
              ? html`<button class="link" onClick=${() => openWorker(owner.id)} title=${owner.id}>${short(owner.id)}</button>${owner.state !== 'serving' && html` <span class="bad">${owner.state}</span>`}${owner.here && html` <span class="tag" title="The worker that answers this page.">here</span>`}`
              : session.ownerWorkerId
                ? html`<code>${short(session.ownerWorkerId)}</code> <span class="quiet">without a row</span>`
                : html`<span class="quiet">none</span>`
          }
        </${Fact}>
        <${Fact} name="Lease left">${owner ? html`<span class=${owner.leaseLeftMs < 0 ? 'bad' : ''}>${duration(owner.leaseLeftMs)}</span>` : '–'}</${Fact}>
        <${Fact} name="Epoch">${session.epoch}</${Fact}>
        <${Fact} name="Socket">${actor?.socketOpen ? `open for ${duration(actor.socketAgeMs)}` : actor ? 'none' : html`<span class="quiet">${session.ownerWorkerId ? 'its owner does not answer' : 'none'}</span>`}</${Fact}>
        <${Fact} name="Waiting">${actor ? actor.queueLength : '–'}</${Fact}>
        <${Fact} name="Turns">${session.turnCount}</${Fact}>
        <${Fact} name="Model">${session.model ?? '–'}</${Fact}>
        <${Fact} name="Scope"><code title=${session.scope}>${session.scope.length > 16 ? `${session.scope.slice(0, 14)}…` : session.scope}</code></${Fact}>
        <${Fact} name="Found by">${keys.length > 0 ? keys.map(({ kind, hash }) => html`<span key=${hash} title=${`${kind} key, SHA-256 ${hash}…`}>${kind} <code>${hash.slice(0, 8)}</code> </span>`) : html`<span class="quiet">its response ids</span>`}</${Fact}>
        <${Fact} name="Changed, ago"><time title=${full(session.updatedAt)}>${ago(session.updatedAt)}</time></${Fact}>
        <${Fact} name="Created, ago"><time title=${full(session.createdAt)}>${ago(session.createdAt)}</time></${Fact}>
      </dl>
      <${Actions} key=${id} session=${session} done=${refresh} />
      <section aria-label="State machine">
        <h3>Machine</h3>
        ${outline && html`<${Chart} outline=${outline} active=${active} taken=${taken} caption=${`The session machine; active: ${active.join(', ')}`} />`}
        ${!actor && session.state !== 'closed' && html`<p class="quiet">From its row; no actor answered.</p>`}
      </section>
      <section aria-label="Turns">
        <h3>Turns</h3>
        <${Turns} session=${session} turns=${turns} forks=${forks} origin=${origin} open=${open} />
      </section>
      <section aria-label="Timeline">
        <h3>Timeline</h3>
        <${Timeline} timeline=${timeline} />
      </section>
    </article>
  `;
}

/** Returns a dotted state and the states around it. */
const pathsOf = (state) => state.split('.').map((_, index, names) => names.slice(0, index + 1).join('.'));

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

const inspector = (id) => new URL(`../../../inspect?session=${encodeURIComponent(id)}`, import.meta.url).href;

const Head = ({ id, state, detail, close }) => html`
  <header>
    <h2 id="session-title">
      <span class="quiet">Session</span> <code>${id}</code>
    </h2>
    ${state && html`<${State} state=${state} detail=${detail} />`}
    <a class="watch" href=${inspector(id)} title="Watch its machine live in the Stately inspector.">inspect ↗</a>
    <button class="close" onClick=${close} aria-label="Back to the list (Escape)" title="Escape">✕</button>
  </header>
`;

/** Renders a state. The actor's state is preferred where it is known, because rows are written only at commits. */
export function State({ state, detail }) {
  const [top, ...deeper] = (detail ?? state).split('.');
  return html`
    <span class=${`badge ${top}`} title=${detail && top !== state ? `Stored state: ${state}.` : ''}>
      <i aria-hidden="true"></i>${top}${deeper.length > 0 && html`<span class="deeper">.${deeper.join('.')}</span>`}
    </span>
  `;
}

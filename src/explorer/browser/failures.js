import { useState } from 'preact/hooks';
import { api } from './api.js';
import { Filters } from './filters.js';
import { html } from './html.js';
import { goTo, hrefOf } from './place.js';
import { usePoll } from './poll.js';
import { duration, full, short, when } from './words.js';

const reasonOf = ({ fault, upstreamStatus }) =>
  fault ?? (upstreamStatus === null ? 'upstream_error' : `upstream_${upstreamStatus}`);
const keyOf = ({ request, turn, t }) => request || `${turn}@${t}`;

/** Renders the failed and refused requests of all workers, newest first, including those that never had a session. */
export function Failures({ filter }) {
  const [opened, setOpened] = useState(null);
  const key = JSON.stringify(filter);
  const { data, error } = usePoll((signal) => api.failures({ ...filter, limit: 200 }, signal), 2_000, key);
  const failures = data?.failures ?? [];
  const narrow = (fields) => goTo('failures', null, { ...filter, ...fields });
  const isFiltered = Object.values(filter).some((value) => value !== '');
  return html`
    <section class="page failures" aria-label="Failures">
      <h2>Failed and refused requests</h2>
      <div class="searchbar">
        <input
          type="search"
          aria-label="Search by request, response, session, turn or thread id"
          placeholder="Request, response, session, turn or thread id, or its beginning"
          value=${filter.q ?? ''}
          spellcheck="false"
          onInput=${(event) => narrow({ q: event.currentTarget.value.trim() })}
        />
        ${['model', 'outcome', 'tenant', 'reason'].map(
          (name) =>
            html`<${Choice} key=${name} name=${name} value=${filter[name] ?? ''} options=${failures.map((each) => (name === 'reason' ? reasonOf(each) : each[name]))} choose=${(value) => narrow({ [name]: value })} />`,
        )}
      </div>
      <${Filters} view="failures" filter=${filter} />
      ${error && html`<p class="trouble" role="alert">${error.message}${data ? ' The list below may be outdated.' : ''}</p>`}
      <ol class="mishaps">
        ${failures.map(
          (failed) =>
            html`<${Failed} key=${keyOf(failed)} failed=${failed} isOpen=${opened === keyOf(failed)} toggle=${() => setOpened(opened === keyOf(failed) ? null : keyOf(failed))} narrow=${narrow} />`,
        )}
      </ol>
      ${!data && !error && html`<p class="empty">Loading…</p>`}
      ${data && failures.length === 0 && html`<p class="empty">${isFiltered ? 'No failure matches.' : 'No request has failed.'}</p>`}
      <p class="quiet foot">
        Each worker remembers its last 500 failures and, apart from them, its last 500 refusals until it stops. Failed turns of workers that are gone come from their rows, which have no request id.
      </p>
    </section>
  `;
}

function Choice({ name, value, options, choose }) {
  const known = [...new Set([...options, value])].filter((each) => each).sort();
  if (known.length === 0) return null;
  return html`
    <label class="choice-of">
      <span class="sr">${name}</span>
      <select value=${value} onChange=${(event) => choose(event.currentTarget.value)} aria-label=${`Only this ${name}`}>
        <option value="">any ${name}</option>
        ${known.map((each) => html`<option key=${each} value=${each}>${each}</option>`)}
      </select>
    </label>
  `;
}

function Failed({ failed, isOpen, toggle, narrow }) {
  const {
    t,
    request,
    turn,
    session,
    cause,
    status,
    code,
    method,
    path,
    upgrade,
    tenant,
    model,
    outcome,
    ending,
    workerId,
  } = failed;
  const reason = reasonOf(failed);
  return html`
    <li class=${isOpen ? 'open' : ''}>
      <button class="row" aria-expanded=${isOpen} onClick=${toggle}>
        <time title=${full(t)}>${when(t)}</time>
        <span class=${`status ${status >= 500 || status === null ? 'bad' : ''}`} title="What the client got.">${status ?? '–'}</span>
        <span class="what">
          <strong>${reason}</strong>
          ${cause && html` <span class="cause">${cause}</span>`}
        </span>
        <span class="where">
          ${upgrade ? html`<span class="tag">WebSocket</span> ` : ''}${path ? html`<code>${method} ${path}</code>` : outcome ? html`<span>${outcome}</span>` : ''}
        </span>
        <code class="id">${request ? short(request) : turn ? short(turn) : ''}</code>
      </button>
      ${
        isOpen &&
        html`
          <div class="details">
            <dl class="facts">
              <${Fact} name="Client got">${status === null ? 'left, or unknown' : html`${status}${code && html` <code>${code}</code>`}`}</${Fact}>
              <${Fact} name="Request">${request ? html`<code>${request}</code>` : 'not stored'}</${Fact}>
              ${session && html`<${Fact} name="Session"><a href=${hrefOf('sessions', session)}><code>${session}</code></a></${Fact}>`}
              ${turn && html`<${Fact} name="Turn"><code>${turn}</code></${Fact}>`}
              ${failed.response && html`<${Fact} name="Response"><code>${failed.response}</code></${Fact}>`}
              ${failed.key && html`<${Fact} name="Thread key"><a href=${hrefOf('sessions', null, { q: failed.key })}><code>${failed.key}</code></a></${Fact}>`}
              ${model && html`<${Fact} name="Model"><button class="link" onClick=${() => narrow({ model })}>${model}</button></${Fact}>`}
              ${outcome && html`<${Fact} name="Outcome"><button class="link" onClick=${() => narrow({ outcome })}>${outcome}</button></${Fact}>`}
              ${tenant && html`<${Fact} name="Tenant"><button class="link" onClick=${() => narrow({ tenant })}>${tenant}</button></${Fact}>`}
              <${Fact} name="Worker"><a href=${hrefOf('workers', workerId)}><code>${short(workerId)}</code></a></${Fact}>
              <${Fact} name="When">${full(t)}</${Fact}>
              ${ending && html`<${Fact} name="After">${duration(ending.totalMs)}</${Fact}>`}
            </dl>
            ${failed.action && html`<p><strong>What the client is advised to do.</strong> ${failed.action}</p>`}
            <${Story} id=${request || turn} />
          </div>
        `
      }
    </li>
  `;
}

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

/** Renders what `holdfast explain` prints. */
function Story({ id }) {
  const { data, error } = usePoll((signal) => api.story(id, signal), 3_600_000, id);
  if (error) return html`<p class="quiet">${error.message}</p>`;
  if (!data) return html`<p class="quiet">Reading its story…</p>`;
  const { story } = data;
  const own = data.own || story.length;
  const lines = (some) => html`<ol class="story">${some.map((line) => html`<li key=${line}>${line}</li>`)}</ol>`;
  return html`
    ${lines(story.slice(0, own))}
    ${own < story.length && html`<details><summary>What its session did before and after: ${story.length - own} lines</summary>${lines(story.slice(own))}</details>`}
  `;
}

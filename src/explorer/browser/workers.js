import { api } from './api.js';
import { html } from './html.js';
import { hrefOf } from './place.js';
import { usePoll } from './poll.js';
import { bytes, count, duration, share } from './words.js';

const stateOf = ({ state, leaseLeftMs }) => (leaseLeftMs < 0 && state !== 'dead' ? 'silent' : state);
const orDash = (value) =>
  value === null || value === undefined || value === '' ? html`<span class="none">–</span>` : value;

/** Renders the mark of a worker that is much slower than another one, at what, and than which. */
const Slow = ({ slow: { of, ms, fastest } }) => html`
  <strong class="tag slow" title=${`Half of the ${of === 'own' ? "turns need more than this of Holdfast's own time" : 'calls of the database take longer than this'}; at the fastest worker: ${duration(fastest)}.`}>slow: ${of === 'own' ? 'own time' : of} ${duration(ms)}</strong>
`;

/** Renders workers as a table; with `detailed`, their load and times over the window of the overview. */
export function WorkerTable({ workers, marked = null, detailed = false }) {
  const head = (name, title) => html`<th scope="col" class="number" title=${title}>${name}</th>`;
  return html`
    <div class="scroll" tabindex="0" role="region" aria-label="Table of workers">
      <table class="workers-table">
        <thead>
          <tr>
            <th scope="col">Worker</th>
            <th scope="col">State</th>
            ${head('Lease left')}${head('Sessions')}${head('With a turn')}
            ${detailed && html`${head('Turns')}${head('Failed')}${head('Own, p50')}${head('p99')}${head('Database, p99')}${head('Sockets')}${head('Waiting')}${head('Loop', 'Share of the time in which its event loop was busy.')}${head('CPU', 'Share of one processor.')}${head('Memory')}`}
            <th scope="col">Version</th>
          </tr>
        </thead>
        <tbody>
          ${workers.map((worker) => {
            const { id, state, leaseLeftMs, version, here, sessions, busy, load, turns, failures, own, database } =
              worker;
            const cell = (value, isBad = false) =>
              html`<td class=${`number ${isBad ? 'bad' : ''}`}>${orDash(value)}</td>`;
            return html`
              <tr key=${id} class=${id === marked ? 'marked' : ''}>
                <td><code title=${id}>${detailed ? id.slice(0, 8) : id}</code> ${here && html`<span class="tag" title="The worker that answers this page.">here</span>`} ${worker.slow && html`<${Slow} slow=${worker.slow} />`}</td>
                <td><span class=${`worker-state ${stateOf(worker)}`}>${stateOf(worker)}</span></td>
                ${cell(state === 'dead' ? null : duration(leaseLeftMs), state !== 'dead' && leaseLeftMs < 0)}
                <td class="number">${sessions > 0 ? html`<a href=${hrefOf('sessions', null, { owner: id })}>${count(sessions)}</a>` : 0}</td>
                ${cell(count(busy))}
                ${
                  detailed &&
                  html`${cell(turns === null ? null : count(turns))}${cell(failures, failures > 0)}${cell(duration(own?.p50))}${cell(duration(own?.p99))}${cell(duration(database?.p99))}
                  ${cell(load && count(load.sockets))}${cell(load && count(load.queued), load?.queued > 10)}${cell(load && share(load.loop), load?.loop > 0.8)}${cell(load && share(load.processor))}${cell(load && bytes(load.memoryBytes))}`
                }
                <td>${version}</td>
              </tr>
            `;
          })}
        </tbody>
      </table>
    </div>
  `;
}

/** Renders all workers that have a row, those that live first, with their leases, load and times of the last 15 minutes. */
export function Workers({ marked }) {
  const { data, error } = usePoll((signal) => api.overview('15m', signal), 5_000, 'workers');
  return html`
    <section class="page workers" aria-label="Workers">
      <h2>Workers</h2>
      ${error && html`<p class="trouble" role="alert">${error.message}${data ? ' The table below may be outdated.' : ''}</p>`}
      ${data ? html`<${WorkerTable} workers=${data.workers.toSorted((one, other) => Number(one.state === 'dead') - Number(other.state === 'dead'))} marked=${marked} detailed />` : !error && html`<p class="quiet">Loading…</p>`}
      <p class="quiet">A dead worker stays dead; after a restart it has a new id. The next request takes over its idle sessions, and its busy ones as soon as its death is recorded. Turns, failures and times are those of the last 15 minutes.</p>
    </section>
  `;
}

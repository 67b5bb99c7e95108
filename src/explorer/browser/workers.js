import { api } from './api.js';
import { html } from './html.js';
import { usePoll } from './poll.js';
import { duration } from './words.js';

/** Renders all workers that have a row, with the time left on their leases. */
export function Workers({ marked, showSessions }) {
  const { data, error } = usePoll((signal) => api.workers(signal), 1_500, 'workers');
  const workers = data?.workers ?? [];
  return html`
    <section class="workers" aria-label="Workers">
      <h2>Workers</h2>
      ${error && html`<p class="trouble" role="alert">${error.message}</p>`}
      <table>
        <thead>
          <tr>
            <th scope="col">Worker</th>
            <th scope="col">State</th>
            <th scope="col" class="number">Lease left</th>
            <th scope="col" class="number">Sessions</th>
            <th scope="col" class="number">With a turn</th>
            <th scope="col">Version</th>
            <th scope="col"></th>
          </tr>
        </thead>
        <tbody>
          ${workers.map(
            ({ id, state, leaseLeftMs, version, here, sessions, busy }) => html`
              <tr key=${id} class=${id === marked ? 'marked' : ''}>
                <td><code>${id}</code> ${here && html`<span class="tag">here</span>`}</td>
                <td><span class=${`worker-state ${leaseLeftMs < 0 && state !== 'dead' ? 'silent' : state}`}>${leaseLeftMs < 0 && state !== 'dead' ? 'silent' : state}</span></td>
                <td class="number">${state === 'dead' ? '–' : html`<span class=${leaseLeftMs < 0 ? 'bad' : ''}>${duration(leaseLeftMs)}</span>`}</td>
                <td class="number">${sessions}</td>
                <td class="number">${busy}</td>
                <td>${version}</td>
                <td>${sessions > 0 && html`<button class="link" onClick=${() => showSessions(id)}>show its sessions</button>`}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
      <p class="quiet">A dead worker stays dead; after a restart it has a new id. The next request takes over its idle sessions, and its busy ones as soon as its death is recorded.</p>
    </section>
  `;
}

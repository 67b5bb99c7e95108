import { useState } from 'preact/hooks';
import { api } from './api.js';
import { html } from './html.js';
import { usePoll } from './poll.js';
import { clock, duration, short } from './words.js';

/** Renders the failed requests of all workers, newest first, including those that never had a session. */
export function Failures({ open }) {
  const [q, setQ] = useState('');
  const { data, error } = usePoll((signal) => api.failures({ q }, signal), 1_500, `failures ${q}`);
  const failures = data?.failures ?? [];
  return html`
    <section class="workers" aria-label="Failures">
      <h2>Failures</h2>
      <p>
        <input
          type="search"
          aria-label="Request, turn or session id"
          placeholder="Request, turn or session id"
          value=${q}
          onInput=${(event) => setQ(event.currentTarget.value.trim())}
        />
      </p>
      ${error && html`<p class="trouble" role="alert">${error.message}</p>`}
      <table>
        <thead>
          <tr>
            <th scope="col">When</th>
            <th scope="col">Request</th>
            <th scope="col">Why</th>
            <th scope="col">On the way to the upstream</th>
            <th scope="col" class="number">After</th>
            <th scope="col">Session</th>
            <th scope="col">Worker</th>
          </tr>
        </thead>
        <tbody>
          ${failures.map(
            ({ t, request, fault, cause, upstreamStatus, ending, session, workerId }) => html`
              <tr key=${request}>
                <td title=${new Date(t).toLocaleString()}>${clock(t, true)}</td>
                <td><code>${request}</code></td>
                <td>${fault ?? (upstreamStatus === null ? 'upstream error' : `upstream status ${upstreamStatus}`)}</td>
                <td>${cause ?? '–'}</td>
                <td class="number">${duration(ending?.totalMs)}</td>
                <td>${session ? html`<button class="link" onClick=${() => open(session)}>${short(session)}</button>` : '–'}</td>
                <td><code>${short(workerId)}</code></td>
              </tr>
            `,
          )}
        </tbody>
      </table>
      ${data && failures.length === 0 && html`<p class="empty">No failed requests are recorded.</p>`}
      <p class="quiet">Each worker records its last 500 failures until it stops. A session whose first turn failed has no row; this page is its only record.</p>
    </section>
  `;
}

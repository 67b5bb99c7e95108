import { useState } from 'preact/hooks';
import { api } from './api.js';
import { Filters } from './filters.js';
import { html } from './html.js';
import { hrefOf } from './place.js';
import { usePoll } from './poll.js';
import { bytes, clock, duration, full, percent, saved, short } from './words.js';

/** Renders ended turns of all sessions, the last one first: those behind a point of a chart. */
export function TurnList({ filter }) {
  const [path, setPath] = useState([]);
  const cursor = path.at(-1) ?? null;
  const key = JSON.stringify([filter, cursor]);
  const { data, error } = usePoll((signal) => api.turns({ ...filter, cursor }, signal), 5_000, key);
  const turns = data?.turns ?? [];
  return html`
    <section class="page" aria-label="Turns">
      <h2>Ended turns</h2>
      <${Filters} view="turns" filter=${filter} />
      ${error && html`<p class="trouble" role="alert">${error.message}${data ? ' The list below may be outdated.' : ''}</p>`}
      ${
        turns.length > 0 &&
        html`<div class="scroll turnlist" tabindex="0" role="region" aria-label="Table of turns">
          <table>
            <thead>
              <tr>
                <th scope="col">Ended</th><th scope="col">Session</th><th scope="col">Turn</th><th scope="col">Outcome</th>
                <th scope="col">End</th><th scope="col">Sent as</th><th scope="col" class="number">Saved</th>
                <th scope="col" class="number">Own</th><th scope="col" class="number">First</th><th scope="col" class="number">Took</th>
                <th scope="col">Model</th><th scope="col">Tenant</th><th scope="col">Worker</th>
              </tr>
            </thead>
            <tbody>${turns.map((turn) => html`<${Row} key=${turn.id} turn=${turn} />`)}</tbody>
          </table>
        </div>`
      }
      ${!data && !error && html`<p class="empty">Loading…</p>`}
      ${data && turns.length === 0 && html`<p class="empty">${data.cursor ? 'None among the newest rows of that time.' : 'No stored turn matches. Requests that failed before they became a turn are on the page of failures.'}</p>`}
      <p class="pages">
        <button disabled=${path.length === 0} onClick=${() => setPath(path.slice(0, -1))}>Newer</button>
        <button disabled=${!data?.cursor} onClick=${() => setPath([...path, data.cursor])}>Older</button>
      </p>
    </section>
  `;
}

function Row({ turn }) {
  const { id, sessionId, t, state, facts, model, tenant, authorWorkerId } = turn;
  const spared = saved(turn);
  return html`
    <tr>
      <td title=${full(t)}>${clock(t)}</td>
      <td><a href=${hrefOf('sessions', sessionId)}><code title=${sessionId}>${short(sessionId)}</code></a></td>
      <td><code title=${id}>${short(id)}</code></td>
      <td>${facts?.outcome ?? html`<span class="none">unknown</span>`}</td>
      <td><span class=${`end ${state}`}>${state}</span>${facts?.fault && html` <code class="fault">${facts.fault}</code>`}</td>
      <td>${facts?.form ? html`<strong class=${facts.form}>${facts.form}</strong>` : html`<span class="none">–</span>`}</td>
      <td class="number" title=${spared === null ? '' : bytes(spared)}>${spared > 0 ? percent(spared, facts.bytesFromClient) : ''}</td>
      <td class="number">${duration(facts?.ownMs)}</td>
      <td class="number">${duration(facts?.firstEventMs)}</td>
      <td class="number">${duration(facts?.totalMs)}</td>
      <td>${model}</td>
      <td>${tenant}</td>
      <td><code title=${authorWorkerId}>${short(authorWorkerId)}</code></td>
    </tr>
  `;
}

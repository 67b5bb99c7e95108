import { useState } from 'preact/hooks';
import { TimeBar, TimeLegend, TimeTable } from './bars.js';
import { html } from './html.js';
import { hrefOf } from './place.js';
import { columnsOf } from './tree.js';
import { bytes, clock, count, duration, full, percent, saved, short, tokens } from './words.js';

const STEP = 14;
const HEIGHT = 34;
const at = (column) => 9 + column * STEP;

function Graph({ place, width, turn, isHead }) {
  const { column, above, below, cut } = place;
  const middle = HEIGHT / 2;
  return html`
    <svg class="graph" width=${width} height=${HEIGHT} aria-hidden="true">
      ${above.map(({ from, to }) =>
        from === to
          ? html`<path key=${from} d=${`M${at(from)} 0V${from === column ? middle : HEIGHT}`} />`
          : html`<path key=${from} d=${`M${at(from)} 0C${at(from)} ${middle} ${at(to)} 0 ${at(to)} ${middle}`} />`,
      )}
      ${below.map(
        (from) =>
          (from === column || !above.some((each) => each.from === from)) &&
          html`<path key=${`b${from}`} d=${`M${at(from)} ${middle}V${HEIGHT}`} />`,
      )}
      ${cut && html`<path class="cut" d=${`M${at(column)} ${middle}V${HEIGHT}`} />`}
      <circle class=${`${turn.state}${isHead ? ' head' : ''}`} cx=${at(column)} cy=${middle} r=${isHead ? 5 : 4} />
    </svg>
  `;
}

const sums = (turns) =>
  turns.reduce(
    (sum, turn) => {
      const used = tokens(turn.usage);
      const spared = saved(turn);
      return {
        client: sum.client + (spared === null ? 0 : turn.facts.bytesFromClient),
        saved: sum.saved + (spared ?? 0),
        input: sum.input + (used?.input ?? 0),
        cached: sum.cached + (used?.cached ?? 0),
        output: sum.output + (used?.output ?? 0),
      };
    },
    { client: 0, saved: 0, input: 0, cached: 0, output: 0 },
  );

/** Renders the turns as a tree, with the cost of each. A turn can be opened for its exact times and ids. */
export function Turns({ session, turns, forks, origin, open }) {
  const [opened, setOpened] = useState(null);
  if (turns.length === 0) return html`<p class="quiet">No turn is stored.</p>`;
  const longest = Math.max(1, ...turns.map(({ facts }) => facts?.totalMs ?? 0));
  const places = columnsOf(turns);
  const width = at(Math.max(...places.flatMap(({ column, above }) => [column, ...above.map(({ from }) => from)]))) + 9;
  const sum = sums(turns);
  return html`
    <p class="quiet">
      ${
        sum.saved > 0
          ? html`<strong>${bytes(sum.saved)}</strong> of ${bytes(sum.client)} did not have to be sent (${percent(sum.saved, sum.client)})`
          : 'Nothing was saved yet'
      }
      ${sum.input > 0 && html` · ${count(sum.input)} tokens in, <strong>${percent(sum.cached, sum.input)}</strong> cached, ${count(sum.output)} out`}
    </p>
    <${TimeLegend} />
    <div class="scroll" tabindex="0" role="region" aria-label="Table of turns">
      <table class="turns">
        <thead>
          <tr>
            <th scope="col"><span class="sr">Tree</span></th>
            <th scope="col">Turn</th>
            <th scope="col">Started</th>
            <th scope="col">Outcome</th>
            <th scope="col">End</th>
            <th scope="col">Sent as</th>
            <th scope="col" class="timing">Time</th>
            <th scope="col" class="number">Took</th>
            <th scope="col" class="number wide">From client</th>
            <th scope="col" class="number wide">Upstream</th>
            <th scope="col" class="number">Saved</th>
            <th scope="col" class="number wide">Tokens in</th>
            <th scope="col" class="number">Cached</th>
            <th scope="col" class="number wide">Out</th>
          </tr>
        </thead>
        <tbody>
          ${turns.map(
            (turn, index) => html`
              <${Row}
                key=${turn.id}
                turn=${turn}
                graph=${html`<${Graph} place=${places[index]} width=${width} turn=${turn} isHead=${turn.id === session.headTurnId} />`}
                isHead=${turn.id === session.headTurnId}
                forks=${forks.filter(({ parentTurnId }) => parentTurnId === turn.id)}
                longest=${longest}
                width=${width}
                isOpen=${opened === turn.id}
                toggle=${() => setOpened(opened === turn.id ? null : turn.id)}
                open=${open}
              />
            `,
          )}
        </tbody>
      </table>
    </div>
    ${
      origin &&
      html`<p class="origin">
        It was forked from turn ${short(origin.turnId)} of
        ${' '}<button class="link" onClick=${() => open(origin.sessionId)}>session ${short(origin.sessionId)}</button>.
      </p>`
    }
  `;
}

function Row({ turn, graph, isHead, forks, open, longest, width, isOpen, toggle }) {
  const { facts, error, state } = turn;
  const used = tokens(turn.usage);
  const spared = saved(turn);
  const unknown = (title) => html`<span class="none" title=${title}>–</span>`;
  const untold = unknown(
    state === 'active' ? 'Known when the turn ends.' : 'The turn was not ended by its own worker.',
  );
  const named = facts?.fault ?? error?.code ?? error?.type ?? null;
  return html`
    <tr class=${`${state} ${isOpen ? 'open' : ''}`}>
      <td class="tree">${graph}</td>
      <td>
        <button class="link" aria-expanded=${isOpen} title=${`turn ${turn.id}`} onClick=${toggle}>${short(turn.id)}</button>
        ${isHead && html` <span class="tag head">head</span>`}
        ${turn.branched && html` <span class="tag" title="It did not end under the fence, so it never became the head.">branch</span>`}
        ${forks.map(
          (fork) => html` <button
            key=${fork.turnId}
            class="link tag"
            title="Another session was forked here."
            onClick=${() => open(fork.sessionId)}
          >
            fork ${short(fork.sessionId)}
          </button>`,
        )}
      </td>
      <td title=${full(turn.startedAt)}>${clock(turn.startedAt)}</td>
      <td>${facts ? html`<span class="outcome">${facts.outcome}</span>` : untold}</td>
      <td class="end">
        <span class=${`end ${state}`}>${state}</span>
        ${named && html` <code class="fault">${named}</code>`}
        ${facts?.upstreamStatus && html` <span class="quiet">${facts.upstreamStatus}</span>`}
      </td>
      <td>
        <span class="quiet" title="As the client sent it.">${turn.shape}</span>
        ${facts?.form && html` → <strong class=${facts.form} title="As it was sent upstream.">${facts.form}</strong>`}
        ${facts?.creates > 1 && html` <span class="tag" title="Its first frame was lost before any output was shown, and was sent again.">resent</span>`}
      </td>
      <td class="timing">${facts ? html`<${TimeBar} facts=${facts} longest=${longest} />` : ''}</td>
      <td class="number">${facts ? duration(facts.totalMs) : state === 'active' ? '' : untold}</td>
      <td class="number wide">${facts ? bytes(facts.bytesFromClient) : untold}</td>
      <td class="number wide">${facts?.form ? bytes(facts.bytesSent) : untold}</td>
      <td class="number" title=${spared === null ? '' : bytes(spared)}>
        ${spared === null ? untold : spared > 0 ? percent(spared, facts.bytesFromClient) : html`<span class="quiet">0</span>`}
      </td>
      <td class="number wide">${used ? count(used.input) : ''}</td>
      <td class="number">${used ? percent(used.cached, used.input) : ''}</td>
      <td class="number wide">${used ? count(used.output) : ''}</td>
    </tr>
    ${
      isOpen &&
      html`<tr class="more-of-turn">
        <td class="tree"><svg class="graph" width=${width} height="1" aria-hidden="true"></svg></td>
        <td colspan="13"><${Detail} turn=${turn} used=${used} spared=${spared} /></td>
      </tr>`
    }
  `;
}

const Fact = ({ name, children }) => html`<div><dt>${name}</dt><dd>${children}</dd></div>`;

function Detail({ turn, used, spared }) {
  const { id, responseId, epoch, authorWorkerId, facts, error, startedAt, endedAt, replay, storedUpstream } = turn;
  return html`
    ${facts && html`<${TimeTable} facts=${facts} />`}
    <dl class="facts">
      <${Fact} name="Turn"><code>${id}</code></${Fact}>
      <${Fact} name="Response">${responseId ? html`<code>${responseId}</code>` : 'none'}</${Fact}>
      <${Fact} name="Started">${full(startedAt)}</${Fact}>
      <${Fact} name="Ended">${endedAt ? full(endedAt) : 'runs'}</${Fact}>
      <${Fact} name="By"><a href=${hrefOf('workers', authorWorkerId)}><code>${short(authorWorkerId)}</code></a> in epoch ${epoch}</${Fact}>
      <${Fact} name="Can be rebuilt">${replay === 'exact' ? 'from its stored items' : storedUpstream ? 'by the provider' : 'no'}</${Fact}>
      ${facts?.form && html`<${Fact} name="Bytes">${bytes(facts.bytesFromClient)} from the client, ${bytes(facts.bytesSent)} sent${spared > 0 ? `, ${bytes(spared)} saved` : ''}</${Fact}>`}
      ${used && html`<${Fact} name="Tokens">${count(used.input)} in, ${count(used.cached)} of them cached, ${count(used.output)} out</${Fact}>`}
      ${error && html`<${Fact} name="Error">${[error.code, error.type, error.status].filter(Boolean).join(', ') || 'without a code'}</${Fact}>`}
      ${(facts?.fault || error) && html`<${Fact} name="Failure"><a href=${hrefOf('failures', null, { q: id })}>what its client got, and why</a></${Fact}>`}
    </dl>
  `;
}

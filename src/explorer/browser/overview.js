import { api } from './api.js';
import { html } from './html.js';
import { goTo, hrefOf } from './place.js';
import { Plot } from './plot.js';
import { usePoll } from './poll.js';
import { bytes, count, duration, money, percent, rate, share } from './words.js';
import { WorkerTable } from './workers.js';

const WINDOWS = { '15m': 'last 15 min', '1h': 'last hour', '24h': 'last 24 h' };
const EVERY = { '15m': 5_000, '1h': 15_000, '24h': 60_000 };
/** Most series drawn in a stacked chart; the smaller ones are added up. */
const MOST_SERIES = 5;
const COLOURS = ['c1', 'c2', 'c3', 'c4', 'c5', 'c6'];

const zip = (rows, merge) => rows[0].map((_, at) => merge(rows.map((row) => row[at])));
const sum = (values) => values.reduce((all, each) => all + (each ?? 0), 0);

/** Returns counts a step as rates a minute. The running step is shorter than the others. */
function rates(values, { t, step, now }) {
  return values.map((value, at) => {
    if (value === null) return null;
    const ms = Math.min(step, Math.max(step / 3, now - t[at]));
    return (value * 60_000) / ms;
  });
}

/** Returns the series of a stacked chart: the largest by name, and the rest together. */
function largest(named, data, hrefFor, colours = COLOURS) {
  const entries = Object.entries(named);
  const first = entries.slice(0, entries.length > MOST_SERIES ? MOST_SERIES - 1 : MOST_SERIES);
  const rest = entries.slice(first.length).map(([, values]) => values);
  const minutes = (data.now - data.since) / 60_000;
  return [...first, ...(rest.length > 0 ? [['others', zip(rest, sum)]] : [])].map(([name, values], at) => ({
    name,
    values: rates(values, data),
    total: sum(values) / minutes,
    colour: colours[at % colours.length],
    href: name === 'others' ? null : hrefFor(name),
  }));
}

const timed = ({ p50, p99 }, total) => [
  { name: 'p99', values: p99, total: total.p99, colour: 'c2' },
  { name: 'p50', values: p50, total: total.p50, colour: 'c1' },
];

/** Renders the first page: whether all is well, what failed, what it saves, and how busy the workers are. */
export function Overview({ window, setWindow }) {
  const { data, error } = usePoll((signal) => api.overview(window, signal), EVERY[window], window);
  return html`
    <section class="overview" aria-label="Overview">
      <div class="headline">
        <h2 class="sr">Overview</h2>
        <div class="filter" role="group" aria-label="Time">
          ${Object.entries(WINDOWS).map(
            ([name, words]) =>
              html`<button key=${name} aria-pressed=${name === window} onClick=${() => setWindow(name)}>${words}</button>`,
          )}
        </div>
        ${data && html`<${Verdict} data=${data} />`}
      </div>
      ${error && html`<p class="trouble" role="alert">${error.message}${data ? ' The figures below may be outdated.' : ''}</p>`}
      ${data ? html`<${Figures} data=${data} /><${Charts} data=${data} /><${Below} data=${data} />` : !error && html`<p class="empty">Loading…</p>`}
    </section>
  `;
}

const failuresIn = ({ total }) => sum(Object.values(total.failures));

/** Renders the answer to the first question of an operator in one sentence. */
function Verdict({ data }) {
  const { total, workers, window } = data;
  const failed = failuresIn(data);
  const serving = workers.filter(({ state, leaseLeftMs }) => state === 'serving' && leaseLeftMs > 0).length;
  const silent = workers.filter(({ state, leaseLeftMs }) => state !== 'dead' && leaseLeftMs <= 0).length;
  const [worst] = Object.entries(total.failures).sort(([, a], [, b]) => b - a);
  const problems = [
    ...(serving === 0 ? ['No worker serves.'] : []),
    ...workers.flatMap(({ id, slow }) => (slow ? [`Worker ${id.slice(0, 8)} is slow.`] : [])),
    ...(silent > 0 ? [`${silent} ${silent === 1 ? 'worker is' : 'workers are'} silent.`] : []),
  ];
  const kind = serving === 0 || silent > 0 ? 'bad' : failed > 0 || problems.length > 0 ? 'warn' : 'ok';
  return html`
    <p class=${`verdict ${kind}`} role="status">
      ${problems.map((text) => html`<strong key=${text}>${text} </strong>`)}
      ${
        failed > 0
          ? html`<a href=${hrefOf('failures', null, { since: data.since })}><strong>${count(failed)}</strong> ${failed === 1 ? 'request' : 'requests'} failed or ${failed === 1 ? 'was' : 'were'} refused</a>, most often <code>${worst[0]}</code>.`
          : total.turns > 0
            ? `All ${count(total.turns)} turns of the ${WINDOWS[window]} ended well.`
            : `No turn ended in the ${WINDOWS[window]}.`
      }
      ${' '}${serving} ${serving === 1 ? 'worker serves' : 'workers serve'}.
    </p>
  `;
}

const Figure = ({ name, value, more, href, title, bad = false }) => html`
  <div class="figure" title=${title}>
    <dt>${name}</dt>
    <dd class=${bad ? 'bad' : ''}>${href ? html`<a href=${href}>${value}</a>` : value}</dd>
    <dd class="more">${more ?? ''}</dd>
  </div>
`;

function Figures({ data }) {
  const { total, load, priced, since, now } = data;
  const failed = failuresIn(data);
  const minutes = (now - since) / 60_000;
  const savedBytes = total.clientBytes - total.sentBytes;
  const ms = ({ p50, p99 }) => [duration(p50) || '–', p99 === null ? '' : `p99 ${duration(p99)}`];
  const [first, firstMore] = ms(total.firstEvent);
  const [own, ownMore] = ms(total.own);
  return html`
    <dl class="figures">
      <${Figure} name="Turns" value=${count(total.turns)} more=${`${rate(total.turns / minutes)} a minute`} href=${hrefOf('turns', null, { since })} />
      <${Figure} name="Failed or refused" value=${count(failed)} more=${total.turns > 0 ? `${share(failed / (total.turns + failed))} of requests` : ''} href=${hrefOf('failures', null, { since })} bad=${failed > 0} />
      <${Figure} name="To first event" value=${first} more=${firstMore} title="From the request being read to the first event of the upstream; half of the turns were faster." />
      <${Figure} name="Own share" value=${own} more=${ownMore} title="The part of it before the frame left, without the wait for an earlier turn and for the handshake." />
      <${Figure} name="Sent as delta" value=${percent(total.deltas, total.sent) || '–'} more=${`of ${count(total.sent)} sent`} href=${hrefOf('turns', null, { since, form: 'delta' })} />
      <${Figure} name="Bytes saved" value=${bytes(Math.max(0, savedBytes))} more=${total.clientBytes > 0 ? `${percent(savedBytes, total.clientBytes)} of ${bytes(total.clientBytes)}` : ''} />
      <${Figure} name="Cached tokens" value=${percent(total.cachedTokens, total.inputTokens) || '–'} more=${`of ${count(total.inputTokens)} in`} />
      ${priced && html`<${Figure} name="Saved by caching" value=${money(total.saved)} more="at your prices" title="Price of the cached tokens less than the full one. Without a session's socket the provider would cache fewer of them." />`}
      <${Figure} name="Sockets" value=${count(load.sockets)} more=${`${count(load.connections)} clients`} />
      <${Figure} name="Running, waiting" value=${`${count(load.inFlight)}, ${count(load.queued)}`} more="turns now" bad=${load.queued > load.inFlight && load.queued > 10} />
    </dl>
  `;
}

function Charts({ data }) {
  const { t, step, series, total, window } = data;
  const common = { t, step, of: WINDOWS[window] };
  const turnsOf = (filter) => (since, until) => goTo('turns', null, { since, until, ...filter });
  const failuresOf = (since, until) => goTo('failures', null, { since, until });
  const link = (field) => (name) => hrefOf('turns', null, { since: data.since, [field]: name });
  const perMinute = (values) => rates(values, data);
  const minutes = (data.now - data.since) / 60_000;
  return html`
    <div class="plots">
      <${Plot} ...${common} title="Turns a minute, by outcome" isStacked series=${largest(series.outcomes, data, link('outcome'))} format=${rate} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Failures a minute, by reason" isStacked series=${largest(series.failures, data, (reason) => hrefOf('failures', null, { since: data.since, reason }), ['f1', 'f2', 'f3', 'f4', 'f5'])} format=${rate} pick=${failuresOf} />
      <${Plot} ...${common} title="Time to first event" series=${timed(series.firstEvent, total.firstEvent)} format=${duration} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Holdfast's own share" note="Time before the frame left, without waits for an earlier turn and for the handshake." series=${timed(series.own, total.own)} format=${duration} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Sent as delta" series=${[{ name: 'of the turns sent', values: series.deltaShare, total: total.sent > 0 ? total.deltas / total.sent : null, colour: 'c3' }]} format=${share} most=${1} pick=${turnsOf({ form: 'delta' })} />
      <${Plot} ...${common} title="Bytes saved a minute" isStacked series=${[{ name: 'not sent', values: perMinute(series.savedBytes.map((each) => Math.max(0, each))), total: Math.max(0, total.clientBytes - total.sentBytes) / minutes, colour: 'c3' }]} format=${(value) => bytes(Math.round(value))} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Input tokens a minute" isStacked series=${[
        { name: 'cached', values: perMinute(series.cachedTokens), total: total.cachedTokens / minutes, colour: 'c3' },
        {
          name: 'not cached',
          values: perMinute(series.inputTokens.map((each, at) => each - series.cachedTokens[at])),
          total: (total.inputTokens - total.cachedTokens) / minutes,
          colour: 'c4',
        },
      ]} format=${rate} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Sockets and queue" isWhole series=${[
        { name: 'sockets', values: series.sockets, total: data.load.sockets, colour: 'c1' },
        { name: 'running turns', values: series.inFlight, total: data.load.inFlight, colour: 'c3' },
        { name: 'waiting', values: series.queued, total: data.load.queued, colour: 'c2' },
      ]} format=${rate} pick=${turnsOf({})} />
      <${Plot} ...${common} title="Database" note="Calls of the store, commits included." series=${timed(series.database, total.database)} format=${duration} pick=${turnsOf({})} />
    </div>
  `;
}

function Below({ data }) {
  const { total, workers, rows, since } = data;
  const causes = Object.entries(total.failures).sort(([, a], [, b]) => b - a);
  return html`
    <div class="below">
      <section aria-labelledby="failures-by-reason">
        <h3 id="failures-by-reason">Failures by reason</h3>
        ${
          causes.length === 0
            ? html`<p class="quiet">None.</p>`
            : html`<ul class="causes">
                ${causes.map(
                  ([reason, number]) => html`<li key=${reason}>
                    <a href=${hrefOf('failures', null, { since, reason })}><code>${reason}</code></a> <b>${count(number)}</b>
                  </li>`,
                )}
              </ul>`
        }
      </section>
      <section aria-labelledby="workers-now">
        <h3 id="workers-now">Workers</h3>
        <${WorkerTable} workers=${workers.filter(({ state }) => state !== 'dead')} detailed />
        ${workers.some(({ state }) => state === 'dead') && html`<p class="quiet"><a href=${hrefOf('workers')}>${count(workers.filter(({ state }) => state === 'dead').length)} dead</a></p>`}
      </section>
    </div>
    ${
      rows.of > 0 &&
      html`<p class="quiet foot">
        ${rows.of} ${rows.of === 1 ? 'worker is' : 'workers are'} gone or did not answer; their turns are counted from rows${
          rows.readable ? (rows.from > since ? ', as far as these were read' : '') : ', which could not be read'
        }.
      </p>`
    }
  `;
}

import { useEffect, useRef, useState } from 'preact/hooks';
import { api } from './api.js';
import { html } from './html.js';
import { hrefOf } from './place.js';
import { usePoll } from './poll.js';
import { State } from './state.js';
import { ago, count, duration, full, short } from './words.js';

/** Maximum total that the server counts. */
const MOST_COUNTED = 10_000;
const PAGE = 100;
/** Filters on stored state. Rows are written only at commits, so no row stays `reconnecting` for long. */
const FILTERS = {
  all: {},
  connecting: { state: 'connecting' },
  'with a turn': { busy: '1' },
  live: { state: 'live' },
  stale: { state: 'stale' },
  closed: { state: 'closed' },
};

/** Renders the sessions of all workers page by page, the last changed first. */
export function Sessions({ chosen, open, wish, setWish }) {
  // Cursors of the pages before the current one.
  const [path, setPath] = useState([]);
  const [marked, mark] = useState(null);
  const list = useRef(null);
  const search = useRef(null);
  const { q, state, busy, owner } = wish;
  const cursor = path.at(-1) ?? null;
  const key = JSON.stringify([q, state, busy, owner, cursor]);
  const { data, error } = usePoll(
    (signal) => api.sessions({ q, state, busy, owner, cursor, limit: PAGE }, signal),
    1_500,
    key,
  );
  // Sessions without a row come first: they have begun last.
  const rows = [...(data?.unstored ?? []).map(asRow), ...(data?.sessions ?? [])];

  const change = (fields) => {
    setPath([]);
    setWish({ ...wish, ...fields });
  };
  const go = (to) => {
    const row = rows[Math.max(0, Math.min(rows.length - 1, to))];
    if (!row) return;
    mark(row.id);
    if (chosen) open(row.id);
    document.getElementById(`row-${row.id}`)?.scrollIntoView({ block: 'nearest' });
  };
  const steps = { ArrowDown: 1, j: 1, ArrowUp: -1, k: -1, PageDown: 10, PageUp: -10, Home: -PAGE, End: PAGE };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const here = rows.findIndex(({ id }) => id === marked);
    if (event.key === 'Enter' && marked) open(marked);
    else if (event.key in steps) go(here < 0 ? 0 : here + steps[event.key]);
    else return;
    event.preventDefault();
  };

  useEffect(() => {
    if (chosen) mark(chosen);
  }, [chosen]);
  useEffect(() => {
    const onSlash = (event) => {
      if (event.key !== '/' || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement?.tagName ?? '')) return;
      event.preventDefault();
      search.current?.focus();
      search.current?.select();
    };
    addEventListener('keydown', onSlash);
    return () => removeEventListener('keydown', onSlash);
  }, []);

  return html`
    <section class="sessions" aria-label="Sessions">
      <div class="search">
        <input
          ref=${search}
          type="search"
          placeholder="Session, response, turn or thread id, or its beginning"
          aria-label="Search by session, response, turn or thread id"
          value=${q}
          spellcheck="false"
          onInput=${({ currentTarget }) => change({ q: currentTarget.value.trim() })}
          onKeyDown=${(event) => {
            if (event.key === 'ArrowDown' || event.key === 'Enter') {
              event.preventDefault();
              list.current?.focus();
              go(0);
              if (event.key === 'Enter' && rows[0]) open(rows[0].id);
            } else if (event.key === 'Escape') {
              event.stopPropagation();
              if (q) change({ q: '' });
              else event.currentTarget.blur();
            }
          }}
        />
        <kbd aria-hidden="true">/</kbd>
      </div>
      <div class="filter" role="group" aria-label="Which">
        ${Object.entries(FILTERS).map(
          ([name, { state: each = '', busy: turn = '' }]) => html`
            <button
              key=${name}
              aria-pressed=${state === each && busy === turn}
              onClick=${() => change({ state: each, busy: turn })}
            >
              ${name}
            </button>
          `,
        )}
        ${owner && html`<button class="only" onClick=${() => change({ owner: '' })}>of worker ${short(owner)} ✕</button>`}
      </div>
      ${error && html`<p class="trouble" role="alert">${error.message}${data ? ' The list below may be outdated.' : ''}</p>`}
      <div class="table">
      <div class="columns" aria-hidden="true">
        <span>State</span><span>Session</span><span class="c-owner">Owner</span><span class="c-number">Epoch</span>
        <span class="c-number">Lease</span><span class="c-number">Turns</span><span class="c-number">Socket</span>
        <span class="c-outcome">Last turn</span><span class="c-model">Model</span><span class="c-changed">Changed</span>
      </div>
      <ol
        ref=${list}
        class="rows"
        role="listbox"
        tabindex="0"
        aria-label="Sessions, the latest changed first"
        aria-activedescendant=${rows.some(({ id }) => id === marked) ? `row-${marked}` : undefined}
        onKeyDown=${onKey}
        onFocus=${() => !marked && rows[0] && mark(rows[0].id)}
      >
        ${rows.map(
          (row) => html`
            <${Row}
              key=${row.id}
              row=${row}
              isMarked=${row.id === marked}
              isChosen=${row.id === chosen}
              onClick=${() => {
                mark(row.id);
                open(row.id);
              }}
            />
          `,
        )}
      </ol>
      ${!data && !error && html`<p class="empty">Loading…</p>`}
      ${data && rows.length === 0 && html`<p class="empty">${q || state || busy || owner ? 'No session matches.' : data.lastFailure ? html`<${WhyNone} failed=${data.lastFailure} />` : 'There is no session yet. Point a client at this bridge.'}</p>`}
      </div>
      <footer>
        <span>${data ? `${count(data.total)}${data.total >= MOST_COUNTED ? ' or more' : ''} ${data.total === 1 ? 'session' : 'sessions'}` : ''}</span>
        <span class="pages">
          <button disabled=${path.length === 0} onClick=${() => setPath(path.slice(0, -1))}>Newer</button>
          <span>page ${path.length + 1}${data && data.total < MOST_COUNTED ? ` of ${Math.max(1, Math.ceil(data.total / PAGE))}` : ''}</span>
          <button disabled=${!data?.cursor} onClick=${() => setPath([...path, data.cursor])}>Older</button>
        </span>
      </footer>
    </section>
  `;
}

/** Returns a session without a row in the form of one with a row. */
const asRow = ({ id, epoch, state, owner, model, since, queueLength }) => ({
  ...{ id, epoch, owner, model, turnCount: 0, lastTurn: null, state: state.split('.')[0] },
  actor: { state, socketOpen: false, queueLength },
  updatedAt: new Date(since).toISOString(),
});

const WhyNone = ({ failed: { fault, cause, upstreamStatus } }) => html`
  No session has started. The last request failed: <strong>${cause ?? fault ?? `upstream status ${upstreamStatus}`}</strong>.
  ${' '}<a href=${hrefOf('failures')}>Failures</a> shows all of them.
`;

function Row({ row, isMarked, isChosen, onClick }) {
  const { id, state, owner, epoch, turnCount, actor, lastTurn, model, updatedAt } = row;
  return html`
    <li
      id=${`row-${id}`}
      role="option"
      aria-selected=${isMarked}
      class=${`${isMarked ? 'marked' : ''} ${isChosen ? 'chosen' : ''}`}
      onClick=${onClick}
    >
      <${State} state=${state} detail=${actor?.state} />
      <code title=${id}>${short(id)}</code>
      <span class="c-owner">${owner ? html`<code title=${owner.id}>${short(owner.id)}</code>${owner.state !== 'serving' && html` <span class="bad">${owner.state}</span>`}` : html`<span class="none">–</span>`}</span>
      <span class="c-number" title="Epoch">${epoch}</span>
      <span class="c-number" title="Lease left">${owner ? html`<span class=${owner.leaseLeftMs < 0 ? 'bad' : ''}>${duration(owner.leaseLeftMs)}</span>` : html`<span class="none">–</span>`}</span>
      <span class="c-number" title="Turns">${turnCount}</span>
      <span class="c-number" title="Age of its socket">${actor?.socketOpen ? duration(actor.socketAgeMs) : html`<span class="none">–</span>`}</span>
      <span class="c-outcome">
        ${lastTurn && html`<span class=${`end ${lastTurn.state}`} title=${lastTurn.state}>${lastTurn.outcome ?? lastTurn.state}</span>`}
        ${lastTurn?.form && html` <span class=${`form ${lastTurn.form}`}>${lastTurn.form}</span>`}
      </span>
      <span class="c-model">${model}</span>
      <time class="c-changed" title=${full(updatedAt)}>${ago(updatedAt)}</time>
    </li>
  `;
}

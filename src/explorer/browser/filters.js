import { html } from './html.js';
import { goTo } from './place.js';
import { when } from './words.js';

const names = {
  since: 'from',
  until: 'until',
  q: 'id',
  outcome: 'outcome',
  end: 'ended',
  form: 'sent as',
  reason: 'reason',
  model: 'model',
  tenant: 'tenant',
};
const isTime = (name) => name === 'since' || name === 'until';
const shown = (name, value) => (isTime(name) ? when(Number(value)) : value);

/** Renders the active filters of a page. Each can be removed. */
export function Filters({ view, filter }) {
  const active = Object.entries(filter).filter(([name, value]) => name in names && name !== 'q' && value !== '');
  if (active.length === 0) return null;
  const { q } = filter;
  return html`
    <p class="chips">
      ${active.map(
        ([name, value]) => html`
          <button key=${name} class="only" title="Remove this filter" onClick=${() => goTo(view, null, { ...filter, [name]: '' })}>
            ${names[name]} <b>${shown(name, value)}</b> <span aria-hidden="true">✕</span><span class="sr">, remove</span>
          </button>
        `,
      )}
      ${active.length > 1 && html`<button class="link" onClick=${() => goTo(view, null, { q })}>remove all</button>`}
    </p>
  `;
}

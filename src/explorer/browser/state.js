import { html } from './html.js';

/** Renders a state. The actor's state is preferred where it is known, because rows are written only at commits. */
export function State({ state, detail }) {
  const [top, ...deeper] = (detail ?? state).split('.');
  return html`
    <span class=${`badge ${top}`} title=${detail && top !== state ? `Stored state: ${state}.` : ''}>
      <i aria-hidden="true"></i>${top}${deeper.length > 0 && html`<span class="deeper">.${deeper.join('.')}</span>`}
    </span>
  `;
}

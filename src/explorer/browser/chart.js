import { useMemo, useState } from 'preact/hooks';
import { html } from './html.js';
import { arrange, curve, nameOf } from './layout.js';
import { useView } from './view.js';

const isWithin = (path, outer) => outer === '' || path === outer || path.startsWith(`${outer}.`);

/** Returns whether the last transition taken is one of an arrow's transitions. */
const wasTaken = ({ transitions }, taken) =>
  taken !== null && transitions.some(({ event, to }) => event === taken.event && taken.active.includes(to));

/**
 * Renders the machine's definition with the active states highlighted. The panel beside it describes the element under
 * the pointer or with the focus, otherwise the innermost active state.
 */
export function Chart({ outline, active, taken, caption }) {
  const drawing = useMemo(() => arrange(outline), [outline]);
  const [pointed, setPointed] = useState(null);
  const lit = new Set(active);
  const places = useMemo(() => placesOf(drawing), [drawing]);
  // When parallel regions are active, describe the state that contains them.
  const parallel = outline.states.find(({ path, kind }) => kind === 'parallel' && lit.has(path));
  const innermost = parallel?.path ?? active.at(-1) ?? null;
  const subject = pointed ?? (innermost === null ? null : { state: innermost });
  const chart = useView(drawing, places.get(innermost ?? '') ?? null);
  const point = (what, place) => ({
    onPointerEnter: () => setPointed(what),
    onPointerLeave: () => setPointed(null),
    onFocus: () => {
      setPointed(what);
      if (place) chart.reveal(place);
    },
    onBlur: () => setPointed(null),
  });

  /** An arrow is highlighted when the described state, or a state around it, has one of the arrow's transitions. */
  const isFinal = outline.states.some(({ path, kind }) => path === subject?.state && kind === 'final');
  const isNear = (arrow) =>
    subject?.state !== undefined && !isFinal && arrow.transitions.some(({ from }) => isWithin(subject.state, from));

  const arrowClass = (arrow) =>
    [
      'arrow',
      !arrow.isNamed && 'inner',
      subject?.arrow === arrow.id && 'pointed',
      isNear(arrow) && 'near',
      wasTaken(arrow, taken) && 'taken',
    ]
      .filter(Boolean)
      .join(' ');

  const draw = (box, depth) => html`
    <g key=${box.path} transform=${box.path === '' ? undefined : `translate(${box.x} ${box.y})`}>
      ${box.path !== '' && stateBox(box, depth)}
      ${
        box.start &&
        html`<g class="start">
          <circle cx=${box.start.at.x} cy=${box.start.at.y} r="4" />
          <path d=${curve(box.start.points)} marker-end="url(#tip)" />
        </g>`
      }
      ${
        box.anywhere &&
        html`<g class="anywhere" transform=${`translate(${box.anywhere.x} ${box.anywhere.y})`}>
          <rect x="-33" y="-11" width="66" height="22" rx="11" />
          <text text-anchor="middle" y="4">any state</text>
        </g>`
      }
      ${box.inside.map((child) => draw(child, depth + 1))}
      ${box.arrows.map(
        (arrow) => html`
          <g
            key=${arrow.id}
            class=${arrowClass(arrow)}
            tabindex="0"
            role="img"
            aria-label=${`${arrow.source === '*' ? 'any state' : arrow.source} to ${arrow.target}: ${arrow.transitions
              .map(({ event, description }) => `${event}, ${description}`)
              .join(' ')}`}
            ...${point({ arrow: arrow.id, bundle: arrow }, null)}
          >
            <path class="reach" d=${curve(arrow.points)} />
            <path class="line" d=${curve(arrow.points)} marker-end="url(#tip)" />
            <text text-anchor="middle">
              ${arrow.lines.map(
                (line, index) => html`
                  <tspan
                    key=${line}
                    x=${arrow.label.x}
                    y=${arrow.label.y + 3.5 + (index - (arrow.lines.length - 1) / 2) * 13}
                  >
                    ${line}
                  </tspan>
                `,
              )}
            </text>
          </g>
        `,
      )}
    </g>
  `;

  const stateBox = (box, depth) => {
    const { path, state, width, height, inside } = box;
    const isLit = lit.has(path);
    const className = [
      'state',
      inside.length > 0 ? `outer depth${Math.min(depth, 3)}` : 'leaf',
      isLit && 'lit',
      isLit && inside.length === 0 && 'inmost',
      subject?.state === path && pointed !== null && 'pointed',
      state.kind,
    ];
    return html`
      <g
        class=${className.filter(Boolean).join(' ')}
        data-state=${path}
        tabindex="0"
        role="img"
        aria-label=${`${path}${isLit ? ', active' : ''}. ${state.description}`}
        ...${point({ state: path }, places.get(path))}
      >
        <rect width=${width} height=${height} rx=${inside.length > 0 ? 9 : 7} />
        ${state.kind === 'final' && html`<rect class="final" x="3" y="3" width=${width - 6} height=${height - 6} rx="5" />`}
        <text
          x=${inside.length > 0 ? 12 : width / 2}
          y=${inside.length > 0 ? 17 : height / 2 + 4.5}
          text-anchor=${inside.length > 0 ? 'start' : 'middle'}
        >
          ${nameOf(path)}
        </text>
      </g>
    `;
  };

  return html`
    <div class="chart">
      <div class="picture">
        <div
          class="canvas"
          ref=${chart.frame}
          tabindex="0"
          role="group"
          aria-label=${`${caption}. The arrow keys move the drawing, plus and minus scale it, 0 follows the active state.`}
          ...${chart.handlers}
        >
        <svg viewBox=${chart.box.join(' ')} role="group" aria-label="States and transitions">
          <defs>
            <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto-start-reverse">
              <path d="M0 0.8L7.4 4L0 7.2z" fill="context-stroke" />
            </marker>
          </defs>
          ${draw(drawing, 0)}
        </svg>
        </div>
        <div class="tools">
          <button onClick=${() => chart.scale(1.2)} disabled=${!chart.canGrow} aria-label="Larger" title="Larger (+)">+</button>
          <button onClick=${() => chart.scale(1 / 1.2)} disabled=${!chart.canShrink} aria-label="Smaller" title="Smaller (-)">−</button>
          <button aria-pressed=${chart.follows} onClick=${() => chart.setFollows(!chart.follows)} title="Keep the active state in the middle (0)">follow</button>
        </div>
        <${SmallMap} drawing=${drawing} lit=${lit} box=${chart.box} goTo=${chart.goTo} />
      </div>
      <div class="told" role="region" aria-label="Description" tabindex="0"><${Told} outline=${outline} subject=${subject} isActive=${lit} /></div>
    </div>
  `;
}

/** Returns the middle of every state of the drawing, by its path. */
function placesOf(drawing) {
  const places = new Map();
  const visit = (box, x, y) => {
    places.set(box.path, { x: x + box.width / 2, y: y + box.height / 2 });
    for (const child of box.inside) visit(child, x + child.x, y + child.y);
  };
  visit(drawing, 0, 0);
  return places;
}

const MAP_WIDTH = 128;

/** Renders the whole machine small and without text, with the visible part marked. A click moves there. */
function SmallMap({ drawing, lit, box, goTo }) {
  const [x, y, width, height] = box;
  if (width >= drawing.width && height >= drawing.height) return null;
  const outline = (each, dx, dy) => html`
    <g key=${each.path}>
      ${each.path !== '' && html`<rect x=${dx} y=${dy} width=${each.width} height=${each.height} rx="8" class=${lit.has(each.path) ? (each.inside.length > 0 ? 'around' : 'lit') : ''} />`}
      ${each.inside.map((child) => outline(child, dx + child.x, dy + child.y))}
    </g>
  `;
  return html`
    <svg
      class="map"
      aria-hidden="true"
      width=${MAP_WIDTH}
      height=${Math.round((MAP_WIDTH * drawing.height) / drawing.width)}
      viewBox=${`0 0 ${drawing.width} ${drawing.height}`}
      onClick=${(event) => {
        const area = event.currentTarget.getBoundingClientRect();
        const share = (at, from, whole) => (at - from) / whole || 0;
        goTo({
          x: share(event.clientX, area.left, area.width) * drawing.width,
          y: share(event.clientY, area.top, area.height) * drawing.height,
        });
      }}
    >
      ${outline(drawing, 0, 0)}
      <rect class="seen" x=${x} y=${y} width=${width} height=${height} />
    </svg>
  `;
}

/** Returns a dotted name with line-break opportunities at its dots. */
const broken = (path) => path.split('.').flatMap((name, index) => (index === 0 ? [name] : [html`.<wbr />`, name]));

function Told({ outline, subject, isActive }) {
  if (subject === null) return html`<p class="quiet">No state is known. Point at one to read about it.</p>`;
  if (subject.bundle) {
    const { source, target, transitions } = subject.bundle;
    return html`
      <h4>${source === '*' ? 'any state' : source} <span class="quiet">to</span> ${target}</h4>
      <${Transitions} list=${transitions} fromShown />
    `;
  }
  const state = outline.states.find(({ path }) => path === subject.state);
  if (!state) return null;
  // A final state takes no events, not even those that apply to every state.
  const outgoing = state.kind === 'final' ? [] : outline.transitions.filter(({ from }) => isWithin(state.path, from));
  return html`
    <h4>${broken(state.path)} ${isActive.has(state.path) && html`<span class="now">active</span>`}</h4>
    <p>${state.description}</p>
    ${state.deadlines.length > 0 && html`<p class="quiet">Bounded by ${state.deadlines.map((name) => html`<code key=${name}>${name}</code> `)}</p>`}
    ${outgoing.length > 0 ? html`<${Transitions} list=${outgoing} />` : html`<p class="quiet">It has no outgoing transitions.</p>`}
  `;
}

const Transitions = ({ list, fromShown = false }) => html`
  <dl class="transitions">
    ${list.map(
      ({ from, event, guard, to, description }, index) => html`
        <div key=${index}>
          <dt>
            <code>${event}</code>${guard && html` <span class="quiet">if ${guard}</span>`}
            ${' '}<span class="leads">${fromShown && from !== '' && html`<span class="quiet">${from} </span>`}→ ${to ?? 'stays'}</span>
          </dt>
          <dd>${description}</dd>
        </div>
      `,
    )}
  </dl>
`;

import { useEffect, useRef, useState } from 'preact/hooks';
import uPlot from 'uplot';
import { html } from './html.js';
import { clock } from './words.js';

const HEIGHT = 132;
/** Distances between marks of counts. */
const WHOLE = Array.from({ length: 7 }, (_, power) => [1, 2, 5].map((each) => each * 10 ** power)).flat();
/** Charts that share a cursor. */
const together = uPlot.sync('overview');

/** Returns the value of a colour that the style sheet declares for both themes. */
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const isDark = () => matchMedia('(prefers-color-scheme: dark)').matches;

/** Adds each series to those before it, so that their areas lie on each other. */
function stacked(series) {
  let below = null;
  return series.map(({ values }) => {
    below = values.map((value, at) => (value ?? 0) + (below?.[at] ?? 0));
    return below;
  });
}

const timeOf = (ms, step) => (step < 60_000 ? clock(ms) : clock(ms).slice(0, 5));

/** @returns {any} options of the library */
function optionsFor({ series, isStacked, isWhole, format, step, width, most }) {
  const axis = { stroke: colour('quiet'), font: `11px ${colour('sans')}`, ticks: { show: false } };
  const grid = { stroke: colour('line'), width: 1 };
  const lines = series.map(({ colour: name }) => ({
    stroke: colour(name),
    width: isStacked ? 1 : 1.6,
    fill: isStacked ? colour(`${name}-fill`) || colour(name) : undefined,
    paths: isStacked ? uPlot.paths.stepped({ align: 1, extend: true }) : undefined,
    points: { show: !isStacked, size: 4 },
    spanGaps: false,
  }));
  return {
    width,
    height: HEIGHT,
    padding: [6, 4, 0, 0],
    legend: { show: false },
    cursor: { y: false, drag: { x: false, y: false }, sync: { key: together.key }, points: { size: 7 } },
    scales: {
      // The last step is as long as the others.
      x: { range: (_chart, first, last) => [first, last + step / 1_000] },
      y: { range: (_chart, _least, top) => [0, Math.max(most ?? 0, (top || 0) * 1.08) || 10] },
    },
    axes: [
      {
        ...axis,
        grid: { show: false },
        size: 22,
        values: (_, marks) => marks.map((s) => clock(s * 1_000).slice(0, 5)),
      },
      {
        ...axis,
        grid,
        size: 52,
        space: 34,
        ...(isWhole && { incrs: WHOLE }),
        values: (_, marks) => marks.map((mark) => format(mark)),
      },
    ],
    // Stacked areas are drawn from the highest to the lowest, so that each covers the part that is not its own.
    series: [{}, ...(isStacked ? lines.reverse() : lines)],
    step,
  };
}

/** Returns the step under the cursor: an area is drawn from its time on, a line has its point there. */
function indexAt(chart, isStacked) {
  const { idx, left } = chart.cursor;
  if (idx === null || idx === undefined) return null;
  return isStacked && idx > 0 && chart.data[0][idx] > chart.posToVal(left + 1, 'x') ? idx - 1 : idx;
}

/**
 * Renders one chart over time with the values under the cursor. A click, or Enter after moving the cursor with the arrow
 * keys, calls `pick` with the bounds of the step.
 */
export function Plot({ title, note, t, step, series, isStacked = false, isWhole = false, format, most, pick, of }) {
  const frame = useRef(null);
  const chart = useRef(null);
  const latest = useRef({ pick, t, step });
  latest.current = { pick, t, step };
  const [width, setWidth] = useState(0);
  const [dark, setDark] = useState(isDark);
  const [at, setAt] = useState(null);
  // Keys may follow each other faster than the chart is rendered, so they read the step here.
  const pointed = useRef(null);
  const point = (index) => {
    pointed.current = index;
    setAt(index);
  };
  const names = series.map(({ name }) => name).join();

  useEffect(() => {
    const seen = new ResizeObserver(([entry]) => setWidth(Math.floor(entry.contentRect.width)));
    seen.observe(frame.current);
    const scheme = matchMedia('(prefers-color-scheme: dark)');
    const change = () => setDark(isDark());
    scheme.addEventListener('change', change);
    return () => {
      seen.disconnect();
      scheme.removeEventListener('change', change);
    };
  }, []);

  const data = () => {
    const values = isStacked ? stacked(series).reverse() : series.map(({ values: each }) => each);
    return [t.map((ms) => ms / 1_000), ...values];
  };
  const open = (index) => {
    const now = latest.current;
    if (index === null || index === undefined || now.t[index] === undefined) return;
    now.pick(now.t[index], now.t[index] + now.step);
  };

  useEffect(() => {
    if (width === 0) return;
    const made = new uPlot(
      {
        ...optionsFor({ series, isStacked, isWhole, format, step, width, most }),
        hooks: { setCursor: [(u) => point(indexAt(u, isStacked))] },
      },
      data(),
      frame.current,
    );
    made.over.addEventListener('click', () => open(indexAt(made, isStacked)));
    made.root.setAttribute('aria-hidden', 'true');
    chart.current = made;
    return () => {
      made.destroy();
      chart.current = null;
    };
  }, [width, dark, names, step, isStacked]);
  useEffect(() => {
    chart.current?.setData(data());
  }, [t, series]);

  const shown = at ?? null;
  const move = (by) => {
    const next = Math.max(0, Math.min(t.length - 1, (pointed.current ?? t.length) + by));
    const u = chart.current;
    u?.setCursor({ left: u.valToPos(t[next] / 1_000, 'x'), top: 0 });
    point(next);
  };
  const onKey = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'ArrowLeft') move(-1);
    else if (event.key === 'ArrowRight') move(1);
    else if (event.key === 'Enter') open(pointed.current);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const valueFor = ({ values, total }) => (shown === null ? total : (values[shown] ?? null));
  return html`
    <figure class="plot">
      <figcaption>
        <h3 title=${note}>${title}</h3>
        <span class="when">${shown !== null && t[shown] !== undefined ? timeOf(t[shown], step) : of}</span>
      </figcaption>
      <div
        class="canvas"
        ref=${frame}
        tabindex="0"
        role="group"
        aria-label=${`${title}: chart. Arrow keys move through time, Enter shows the turns.`}
        onKeyDown=${onKey}
      ></div>
      <ul class="values">
        ${series.map(
          (each) => html`
            <li key=${each.name}>
              <i class=${`swatch ${each.colour}`} aria-hidden="true"></i>
              ${each.href ? html`<a href=${each.href}>${each.name}</a>` : html`<span>${each.name}</span>`}
              <b>${valueFor(each) === null || valueFor(each) === undefined ? '–' : format(valueFor(each), true)}</b>
            </li>
          `,
        )}
      </ul>
    </figure>
  `;
}

import { Graph, layout } from '@dagrejs/dagre';

/** Sizes in pixels of the drawing at scale 1. */
const TEXT = 7.1;
const SMALL = 6.5;
const LEAF = 28;
const HEAD = 26;
const PAD = 12;
const LINE = 13;

const parentOf = (path) => (path.includes('.') ? path.slice(0, path.lastIndexOf('.')) : '');
export const nameOf = (path) => path.slice(path.lastIndexOf('.') + 1);
const isWithin = (path, outer) => outer === '' || path === outer || path.startsWith(`${outer}.`);

/** Returns the ancestor of a path, or the path itself, that is directly below `level`. */
const childAt = (path, level) => {
  const rest = level === '' ? path : path.slice(level.length + 1);
  const [first] = rest.split('.');
  return level === '' ? first : `${level}.${first}`;
};

/** Returns the innermost state that contains both paths and equals neither. */
function commonOuter(a, b) {
  let level = parentOf(a);
  while (level !== '' && !(isWithin(b, level) && b !== level)) level = parentOf(level);
  return level;
}

/**
 * Combines transitions into arrows. Each arrow connects the two siblings that contain the ends of its transitions;
 * transitions between the same siblings share one arrow. Transitions that apply to every state start at a node of their
 * own.
 */
function bundle(transitions) {
  const bundles = new Map();
  for (const transition of transitions) {
    const { from, to } = transition;
    if (to === null) continue;
    const level = from === '' ? '' : commonOuter(from, to);
    const source = from === '' ? '*' : childAt(from, level);
    const target = childAt(to, level);
    if (source === target) continue;
    const id = `${source}>${target}`;
    const known = bundles.get(id) ?? { id, level, source, target, transitions: [] };
    known.transitions.push(transition);
    bundles.set(id, known);
  }
  return [...bundles.values()];
}

/** Returns the label of an arrow, at most two lines. */
function labelOf({ transitions }) {
  const events = [...new Set(transitions.map(({ event }) => event))];
  return events.length <= 2 ? events : [events[0], `+ ${events.length - 1} more`];
}

/**
 * Computes positions of a machine's states and arrows. Every compound state is laid out separately and is then one box
 * in the layout of its parent. So no arrow crosses a border, and the layout does not depend on the active state.
 */
export function arrange({ states, transitions }) {
  const byPath = new Map(states.map((state) => [state.path, state]));
  const childrenOf = Map.groupBy(
    states.filter(({ path }) => path !== ''),
    ({ path }) => parentOf(path),
  );
  const bundles = bundle(transitions);

  function place(path) {
    const children = childrenOf.get(path) ?? [];
    const state = byPath.get(path);
    if (children.length === 0) {
      return {
        path,
        state,
        width: Math.max(56, nameOf(path).length * TEXT + 24),
        height: LEAF,
        inside: [],
        arrows: [],
      };
    }
    const boxes = children.map((child) => place(child.path));
    const graph = new Graph({ multigraph: true });
    const depth = path === '' ? 0 : path.split('.').length;
    // The first nested level is laid out horizontally, all other levels vertically.
    graph.setGraph({
      rankdir: depth === 1 ? 'LR' : 'TB',
      nodesep: depth === 0 ? 30 : 16,
      edgesep: depth === 0 ? 30 : 12,
      // Distance between ranks. An arrow with a label spans two ranks.
      ranksep: [11, 14, 11, 14][depth] ?? 10,
      marginx: 2,
      marginy: 2,
    });
    // At deeper levels no space is reserved for labels; they are shown on demand, over their surroundings.
    const isNamed = depth < 2;
    graph.setDefaultEdgeLabel(() => ({}));
    for (const box of boxes) graph.setNode(box.path, { width: box.width, height: box.height });
    const initial = state.initial;
    if (initial) {
      graph.setNode(`${path}!`, { width: 10, height: 10 });
      graph.setEdge(`${path}!`, initial, { weight: 3, minlen: 1 });
    }
    const mine = bundles.filter(({ level }) => level === path);
    if (mine.some(({ source }) => source === '*')) graph.setNode('*', { width: 66, height: 22 });
    for (const each of mine) {
      const lines = labelOf(each);
      graph.setEdge(
        each.source,
        each.target,
        isNamed
          ? {
              width: Math.max(...lines.map((line) => line.length)) * SMALL + 8,
              height: lines.length * LINE + 2,
              labelpos: 'c',
            }
          : { width: 1, height: 1, labelpos: 'c' },
        each.id,
      );
    }
    // Keep the states of this level in the order of their definition, even where no transition connects neighbours.
    if (depth === 1) {
      for (const [index, { path: next }] of boxes.slice(1).entries()) {
        const last = boxes[index].path;
        const areLinked = mine.some(({ source, target }) =>
          [source, target].every((end) => end === last || end === next),
        );
        if (!areLinked) graph.setEdge(last, next, { weight: 0, width: 1, height: 1 }, 'order');
      }
    }
    layout(graph);
    const { width, height } = graph.graph();
    const head = path === '' ? 0 : HEAD;
    const pad = path === '' ? 0 : PAD;
    const wide = Math.max(width, nameOf(path).length * TEXT + 24);
    const dx = pad + (wide - width) / 2;
    const move = ({ x, y }) => ({ x: x + dx, y: y + head });
    return {
      path,
      state,
      width: wide + 2 * pad,
      height: height + head + pad,
      inside: boxes.map((box) => {
        const { x, y } = move(graph.node(box.path));
        return { ...box, x: x - box.width / 2, y: y - box.height / 2 };
      }),
      start: initial
        ? { at: move(graph.node(`${path}!`)), points: edgePoints(graph.edge(`${path}!`, initial), move) }
        : null,
      anywhere: graph.hasNode('*') ? move(graph.node('*')) : null,
      arrows: mine.map((each) => {
        const edge = graph.edge(each.source, each.target, each.id);
        return { ...each, isNamed, lines: labelOf(each), label: move(edge), points: edgePoints(edge, move) };
      }),
    };
  }
  return place('');
}

const edgePoints = (edge, move) => edge.points.map(move);

/** Returns the path data of a smooth curve through an arrow's points. */
export function curve(points) {
  const [first, ...rest] = points;
  const text = (n) => Math.round(n * 10) / 10;
  let path = `M${text(first.x)} ${text(first.y)}`;
  for (let i = 0; i < rest.length - 1; i += 1) {
    const [here, next] = [rest[i], rest[i + 1]];
    const last = i === rest.length - 2;
    const end = last ? next : { x: (here.x + next.x) / 2, y: (here.y + next.y) / 2 };
    path += `Q${text(here.x)} ${text(here.y)} ${text(end.x)} ${text(end.y)}`;
  }
  if (rest.length === 1) path += `L${text(rest[0].x)} ${text(rest[0].y)}`;
  return path;
}

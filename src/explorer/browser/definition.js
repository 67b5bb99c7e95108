const listOf = (value) => (value === undefined || value === null ? [] : Array.isArray(value) ? value : [value]);
const nameOf = (thing) => (typeof thing === 'string' ? thing : typeof thing?.type === 'string' ? thing.type : null);
const parentOf = (path) => (path.includes('.') ? path.slice(0, path.lastIndexOf('.')) : '');

const kindOf = ({ type, states }) => {
  if (type === 'parallel' || type === 'final' || type === 'history') return type;
  return states && Object.keys(states).length > 0 ? 'compound' : 'atomic';
};

/** Returns the transitions that a state declares as pairs of event and transition. */
function declared(state) {
  const delayed = Object.entries(state.after ?? {}).map(([delay, to]) => [`after ${delay}`, to]);
  const invoked = listOf(state.invoke).flatMap(({ id, src, onDone, onError }) => {
    const name = id ?? nameOf(src) ?? 'actor';
    return [...(onDone ? [[`done ${name}`, onDone]] : []), ...(onError ? [[`error ${name}`, onError]] : [])];
  });
  const pairs = [
    ...Object.entries(state.on ?? {}),
    ...(state.always ? [['always', state.always]] : []),
    ...(state.onDone ? [['done', state.onDone]] : []),
    ...delayed,
    ...invoked,
  ];
  return pairs.flatMap(([event, transitions]) => listOf(transitions).map((transition) => [event, transition]));
}

/** Returns all states of a definition with their dotted paths, the machine itself first with an empty path. */
function statesOf(state, path = '') {
  const below = Object.entries(state.states ?? {});
  return [
    { path, state },
    ...below.flatMap(([name, child]) => statesOf(child ?? {}, path === '' ? name : `${path}.${name}`)),
  ];
}

/** Returns the path that a target names, or null when there is no such state. */
function resolve(target, from, paths, byId, machineId) {
  if (target.startsWith('#')) {
    const [id, ...rest] = target.slice(1).split('.');
    const base = byId.get(id) ?? (id === machineId ? '' : null);
    const path = base === null ? null : [base, ...rest].filter((part) => part !== '').join('.');
    return path !== null && paths.has(path) ? path : null;
  }
  const base = target.startsWith('.') ? from : parentOf(from);
  const path = [base, target.replace(/^\./, '')].filter((part) => part !== '').join('.');
  return paths.has(path) ? path : null;
}

/**
 * Returns a machine's definition in the form in which the chart draws it.
 *
 * @param text JSON of an XState machine's configuration
 * @returns null when the text is not such a definition
 */
export function outlineOf(text) {
  let definition;
  try {
    definition = JSON.parse(text);
  } catch {
    return null;
  }
  if (typeof definition !== 'object' || definition === null || typeof definition.states !== 'object') return null;
  const states = statesOf(definition);
  const paths = new Set(states.map(({ path }) => path));
  const byId = new Map(states.flatMap(({ path, state }) => (typeof state.id === 'string' ? [[state.id, path]] : [])));
  const words = (value) => (typeof value === 'string' ? value : '');
  return {
    id: words(definition.id) || 'machine',
    states: states.map(({ path, state }) => ({
      path,
      description: words(state.description),
      kind: kindOf(state),
      initial:
        kindOf(state) === 'compound' && typeof nameOfInitial(state) === 'string'
          ? [path, nameOfInitial(state)].filter((part) => part !== '').join('.')
          : null,
      deadlines: listOf(state.meta?.deadlines).flatMap(({ name }) => (typeof name === 'string' ? [name] : [])),
    })),
    transitions: states.flatMap(({ path, state }) =>
      declared(state).map(([event, transition]) => {
        const given = typeof transition === 'string' ? { target: transition } : (transition ?? {});
        const [target] = listOf(given.target);
        return {
          from: path,
          event,
          guard: nameOf(given.guard ?? given.cond),
          to: typeof target === 'string' ? resolve(target, path, paths, byId, definition.id) : null,
          actions: listOf(given.actions).map((action) => nameOf(action) ?? 'an action'),
          description: words(given.description),
        };
      }),
    ),
  };
}

const nameOfInitial = ({ initial }) =>
  typeof initial === 'string' ? initial.replace(/^[.#]/, '') : listOf(initial?.target)[0];

/** Returns the dotted paths of all states in a state value, outer states first. */
export function activePaths(value, prefix = '') {
  if (typeof value === 'string') return [prefix + value];
  if (typeof value !== 'object' || value === null) return [];
  return Object.entries(value).flatMap(([name, below]) => [prefix + name, ...activePaths(below, `${prefix}${name}.`)]);
}

/** Formats a state value: `live.idle`, or `live.streaming (flow.waiting, client.attached)`. */
export function stateText(value) {
  if (typeof value === 'string') return value;
  if (typeof value !== 'object' || value === null) return '';
  const entries = Object.entries(value);
  if (entries.length === 1) {
    const [name, below] = entries[0];
    const rest = stateText(below);
    return rest === '' ? name : rest.startsWith('(') ? `${name} ${rest}` : `${name}.${rest}`;
  }
  return entries.length === 0 ? '' : `(${entries.map(([name, below]) => `${name}.${stateText(below)}`).join(', ')})`;
}

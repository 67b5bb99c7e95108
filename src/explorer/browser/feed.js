import { activePaths, outlineOf, stateText } from './definition.js';

/** Most events kept, and most actors shown. Older ones are dropped. */
const MOST_EVENTS = 4_000;
const MOST_ACTORS = 500;

const isObject = (value) => typeof value === 'object' && value !== null;
const textOf = (value, most = 400) => (typeof value === 'string' ? value.slice(0, most) : null);

/**
 * Creates the record of what sources report in the protocol of `@statelyai/inspect`: actors with their definitions and
 * snapshots, and the events in the order of their arrival.
 */
export function createFeed() {
  const actors = new Map();
  const outlines = new Map();
  const events = [];
  let dropped = 0;
  let number = 0;

  const outlineFor = (definition) => {
    if (typeof definition !== 'string') return null;
    if (!outlines.has(definition)) outlines.set(definition, outlineOf(definition));
    return outlines.get(definition);
  };
  const actorOf = (id) => {
    const known = actors.get(id);
    if (known) return known;
    const actor = { id, name: id, parentId: null, outline: null, status: 'active', value: undefined, count: 0 };
    actors.set(id, actor);
    if (actors.size > MOST_ACTORS) actors.delete(actors.keys().next().value);
    return actor;
  };

  return {
    actors,
    events,
    get dropped() {
      return dropped;
    },
    /** Number of messages taken. */
    get taken() {
      return number;
    },
    /** Takes one message. Anything that is not one of the protocol is ignored. */
    take(message) {
      if (!isObject(message) || !/^@xstate\.(actor|event|snapshot)$/.test(message.type)) return;
      const id = textOf(message.sessionId);
      if (id === null) return;
      number += 1;
      const actor = actorOf(id);
      const t = Number(message.createdAt) || Date.parse(message.createdAt) || Date.now();
      if (message.type === '@xstate.actor') {
        Object.assign(actor, { name: textOf(message.name) ?? id, parentId: textOf(message.parentId) });
        actor.outline = outlineFor(message.definition) ?? actor.outline;
      }
      const snapshot = isObject(message.snapshot) ? message.snapshot : null;
      if (snapshot) {
        actor.status = textOf(snapshot.status) ?? 'active';
        actor.moved = JSON.stringify(actor.value) !== JSON.stringify(snapshot.value);
        actor.value = snapshot.value;
        actor.snapshot = snapshot;
      }
      actor.count += 1;
      const { type = message.type === '@xstate.actor' ? 'started' : 'unnamed', ...fields } = isObject(message.event)
        ? message.event
        : {};
      events.push({
        number,
        t,
        actor: id,
        kind: message.type.slice('@xstate.'.length),
        event: textOf(type) ?? 'unnamed',
        fields: Object.keys(fields).length > 0 ? fields : null,
        source: textOf(message.sourceId),
        snapshot,
        state: snapshot ? stateText(snapshot.value) : '',
        active: snapshot ? activePaths(snapshot.value) : [],
        moved: snapshot !== null && actor.moved,
      });
      if (events.length > MOST_EVENTS) dropped += events.splice(0, events.length - MOST_EVENTS).length;
    },
  };
}

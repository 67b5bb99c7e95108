import { describe, expect, it } from 'vitest';
import { explore, type GraphNode, sessionModel, simplePaths } from '../../src/testing/index.ts';

const graph = explore(sessionModel);
const nodes = [...graph.nodes.values()];
const value = (node: GraphNode) => JSON.parse(node.configuration) as string | Record<string, unknown>;
const isRest = (node: GraphNode) =>
  value(node) === 'closed' || (typeof value(node) === 'object' && 'live' in Object(value(node)));

const commits = /^commit/;
const frames = /^send/;

describe('the session machine explored', () => {
  it('A session can reach live or closed from every state', () => {
    const leadsToRest = (start: GraphNode) => {
      const reached = new Set([start]);
      for (const node of reached) for (const { to } of node.steps) reached.add(to);
      return [...reached].some(isRest);
    };
    expect(nodes.filter((node) => !leadsToRest(node)).map(({ key }) => key)).toEqual([]);
  });

  it('A turn never counts more than two creates', () => {
    for (const { snapshot } of nodes) expect(snapshot.context.creates).toBeLessThan(3);
  });

  it('A stale session leaves that state only for a wanted turn or a close', () => {
    const exits = nodes
      .filter((node) => value(node) === 'stale')
      .flatMap(({ steps }) => steps.filter(({ from, to }) => from.configuration !== to.configuration));
    expect(new Set(exits.map(({ variant }) => variant.name))).toEqual(new Set(['turn.wanted', 'operator.close']));
  });

  it('A session sends a frame only on the verdict of its own start, or for the one permitted resend', () => {
    const senders = nodes
      .flatMap(({ steps }) => steps)
      .filter(({ actions }) => actions.some(({ type }) => frames.test(type)))
      .map(({ variant }) => variant.name);
    expect([...new Set(senders)].sort()).toEqual([
      'socket.opened',
      'store.started (socketOpen, leaseValid)',
      'upstream.anchor_refused',
    ]);
  });

  it('A session closes its socket on every transition to stale or closed', () => {
    for (const { steps } of nodes) {
      for (const { from, to, actions } of steps) {
        const ends = ['"stale"', '"closed"'].includes(to.configuration) && from.configuration !== to.configuration;
        if (ends) expect(actions.map(({ type }) => type)).toContain('closeSocket');
      }
    }
  });
});

describe('the session machine along every simple path', () => {
  it('A session has at most one pending store call, and sends nothing upstream while it is pending', () => {
    let paths = 0;
    let steps = 0;
    for (const path of simplePaths(graph, { maxLength: 9 })) {
      paths += 1;
      steps += path.steps.length;
      let unanswered = false;
      let created = 0;
      for (const { variant, actions, to } of path.steps) {
        const isVerdict = variant.name.startsWith('store.');
        if (isVerdict || variant.name === 'session.claimed') unanswered = false;
        const asks = actions.filter(({ type }) => commits.test(type));
        if (unanswered && asks.length > 0) throw new Error(`a second commit: ${path.name}`);
        if (asks.length > 1) throw new Error(`two commits at once: ${path.name}`);
        if (unanswered && actions.some(({ type }) => frames.test(type) || type === 'dial'))
          throw new Error(`a frame before the verdict: ${path.name}`);
        if (asks.length === 1) unanswered = true;
        if (asks[0]?.type === 'commitCreate') created += 1;
        if (created > 1) throw new Error(`created twice: ${path.name}`);
        if (to.snapshot.context.creates > 2) throw new Error(`a third create: ${path.name}`);
      }
    }
    console.log(`session: ${paths} simple paths of at most 9 events, ${steps} steps`);
    expect(paths).toBeGreaterThan(1_000);
  });
});

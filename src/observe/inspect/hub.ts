import { createInspector } from '@statelyai/inspect';
import type { AnyEventObject } from 'xstate';
import type { Observed, Step } from '../../runtime/index.ts';
import type { Clock } from '../../system.ts';
import {
  boundedCopy,
  type Follower,
  type Identity,
  identify,
  type Recorder,
  safeContext,
  safeEvent,
} from '../trace.ts';

/** Sessions that a viewer sees. */
export interface Selection {
  /** Returns whether the viewer sees this session. The result for a session does not change while it is shown. */
  wants(sessionId: string): boolean;
  /** True when the viewer named its sessions; then nothing else is shown. */
  readonly exact: boolean;
  /** Frees the place of a session whose actor has ended, so that another can be shown. */
  release(sessionId: string): void;
}

/** Maps an id to a share in [0, 1) with FNV-1a. The same session falls into the same sample on every worker. */
function share(id: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < id.length; i += 1) hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193);
  // Final mixing steps, so that ids that differ only at the end do not get similar shares.
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) / 2 ** 32;
}

/**
 * Reads a viewer's selection: `session=<id>`, repeated for more, or `sample=<0..1>` (default 1: all).
 *
 * @param most maximum number of sampled sessions shown at the same time
 */
export function createSelection(wish: URLSearchParams, most: number): Selection {
  const named = new Set(wish.getAll('session').filter((id) => id !== ''));
  const given = Number(wish.get('sample') ?? 1);
  const sample = Number.isFinite(given) ? given : 1;
  const seen = new Set<string>();
  return {
    exact: named.size > 0,
    wants(sessionId) {
      if (named.size > 0) return named.has(sessionId);
      if (seen.has(sessionId)) return true;
      if (seen.size >= most || share(sessionId) >= sample) return false;
      seen.add(sessionId);
      return true;
    },
    release: (sessionId) => void seen.delete(sessionId),
  };
}

/** Connected viewer of the inspector. */
export interface Viewer {
  readonly selection: Selection;
  send(message: string): void;
}

export interface InspectionHubOptions {
  /** Returns this worker's current id, which is part of every message id. */
  workerId(): string;
  /** True to show whole events and contexts instead of the allowed fields only. Off unless an operator enables it. */
  content: boolean;
  clock: Pick<Clock, 'wall'>;
  /** Observes the actors. The hub follows it while there are viewers. */
  recorder: Pick<Recorder, 'running' | 'sessionOf' | 'follow'>;
  onError?(error: unknown): void;
}

/**
 * Converts the steps of running machines into messages of the Stately inspector. Without viewers it does
 * not run. It never waits for a viewer, and none of its errors reaches a machine.
 */
export interface InspectionHub {
  /**
   * Shows a viewer the actors that run now, and every event from then on.
   *
   * @returns a function that removes the viewer
   */
  join(viewer: Viewer): () => void;
  readonly viewers: number;
}

/** Serialisation depth. The definitions of the bridge's machines nest more deeply than the library's default allows. */
const DEFINITION_DEPTH = 40;

/** Creates the hub that sends inspection messages to all viewers. */
export function createInspectionHub(options: InspectionHubOptions): InspectionHub {
  const { clock, content, recorder } = options;
  let identities = new WeakMap<object, Identity>();
  const definitions = new WeakMap<object, string>();
  /** Actor shown for each id. An actor of a newer epoch replaces an older one. */
  const latest = new Map<string, Observed>();
  const announced = new Map<Viewer, WeakSet<object>>();
  let sequence = 0;
  let targets: readonly Viewer[] = [];
  let subject: { ref: Observed; identity: Identity } | null = null;

  const inspector = createInspector(
    {
      send(message) {
        const text = JSON.stringify(message);
        for (const viewer of targets) viewer.send(text);
      },
    },
    {
      serializationDepthLimit: DEFINITION_DEPTH,
      sanitizeEvent: (event) => shownEvent(event) as AnyEventObject,
      sanitizeContext: (context) => (content ? boundedCopy(context) : safeContext(context)) as typeof context,
      serialize(message) {
        const { ref, identity } = subject!;
        const common = {
          ...message,
          id: `${options.workerId()}:${(sequence += 1)}`,
          createdAt: String(clock.wall()),
          rootId: identity.parentId ?? identity.id,
        };
        if (common.type !== '@xstate.actor') return common;
        return { ...common, name: identity.name, parentId: identity.parentId, definition: definitionOf(ref) };
      },
    },
  );

  function shownEvent(event: { type: string }): object {
    if (content) return boundedCopy(event) as object;
    const { type, fields } = safeEvent(event);
    return { type, ...fields };
  }

  function definitionOf({ machine: { config } }: Observed): string {
    let definition = definitions.get(config);
    if (definition === undefined) definitions.set(config, (definition = JSON.stringify(config)));
    return definition;
  }

  function identityOf(ref: Observed): Identity | null {
    let identity: Identity | null | undefined = identities.get(ref);
    if (!identity && (identity = identify(ref, recorder.sessionOf(ref)))) identities.set(ref, identity);
    return identity ?? null;
  }

  const sees = ({ selection }: Viewer, { sessionId, kind }: Identity) =>
    sessionId === null ? kind === 'worker' && !selection.exact : selection.wants(sessionId);

  /** Announces the actor to those viewers that have not received it yet. */
  function announce(ref: Observed, identity: Identity, viewers: readonly Viewer[]): void {
    targets = viewers.filter((viewer) => !announced.get(viewer)!.has(ref));
    if (targets.length === 0) return;
    subject = { ref, identity };
    inspector.actor(identity.id, shownSnapshot(ref.snapshot()));
    for (const viewer of targets) announced.get(viewer)?.add(ref);
  }

  function relay({ actor: ref, event, ...snapshot }: Step): void {
    const identity = identityOf(ref);
    if (!identity) return;
    if (event.type === 'xstate.init') latest.set(identity.id, ref);
    else if ((latest.get(identity.id) ?? ref) !== ref) return;
    const viewers = [...announced.keys()].filter((viewer) => sees(viewer, identity));
    if (viewers.length > 0) {
      announce(ref, identity, viewers);
      targets = viewers;
      subject = { ref, identity };
      // A stop is no event that an actor receives.
      if (event.type !== 'xstate.stop') inspector.event(identity.id, event);
      inspector.snapshot(identity.id, shownSnapshot(snapshot), { event });
    }
    if (snapshot.status === 'active') return;
    latest.delete(identity.id);
    if (identity.kind !== 'session') return;
    for (const viewer of viewers) viewer.selection.release(identity.sessionId!);
  }

  /** Errors of the inspector go to the log only and never reach a machine. */
  function guarded(act: () => void): void {
    try {
      act();
    } catch (error) {
      options.onError?.(error);
    }
  }

  const follower: Follower = {
    observe: (step) => guarded(() => relay(step)),
    place(turn) {
      identities.delete(turn);
      guarded(() => {
        const identity = identityOf(turn);
        if (!identity) return;
        for (const shown of announced.values()) shown.delete(turn);
        announce(
          turn,
          identity,
          [...announced.keys()].filter((viewer) => sees(viewer, identity)),
        );
      });
    },
  };
  return {
    join(viewer) {
      announced.set(viewer, new WeakSet());
      recorder.follow(follower);
      guarded(() => {
        const known = [...recorder.running()].flatMap((ref) => {
          const identity = identityOf(ref);
          return identity ? [{ ref, identity }] : [];
        });
        // Parents first: a viewer can attach an actor only to a parent it knows.
        known.sort((a, b) => Number(a.identity.kind === 'turn') - Number(b.identity.kind === 'turn'));
        for (const { ref, identity } of known) {
          if (identity.kind !== 'turn') latest.set(identity.id, ref);
          if (sees(viewer, identity)) announce(ref, identity, [viewer]);
        }
      });
      return () => {
        announced.delete(viewer);
        if (announced.size > 0) return;
        recorder.follow(null);
        // Until the next viewer joins, the hub does not learn which actors end and where turns move.
        latest.clear();
        identities = new WeakMap();
      };
    },
    get viewers() {
      return announced.size;
    },
  };
}

/** Reduces a snapshot to what a viewer draws. The machine and its nodes are not sent. */
function shownSnapshot({ status, value, context }: Pick<Step, 'status' | 'value' | 'context'>) {
  return { status: status as 'active', value, context };
}

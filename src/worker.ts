import { createHash } from 'node:crypto';
import type { ClaimedNotice, ForwardClaims } from './cluster/forward/envelope.ts';
import type { ForwardSink } from './cluster/forward/receiver.ts';
import type { Forwarder } from './cluster/forward/sender.ts';
import { startJanitor } from './cluster/janitor.ts';
import { type Membership, startMembership } from './cluster/membership.ts';
import { createPeers } from './cluster/peers.ts';
import type { Config } from './config.ts';
import { safeError } from './errors.ts';
import type { Log } from './log.ts';
import { type Inspect, safely } from './runtime/index.ts';
import { Dispatcher, drain, releaseIdle, SETTLE_GRACE } from './session/dispatcher.ts';
import type { ForwardResult } from './session/forwarding.ts';
import type { Shutdown, TurnRequest } from './session/port.ts';
import { createQuota, type Quota, type QuotaOptions } from './session/quota.ts';
import type { Session } from './session/session.ts';
import { SessionRegistry } from './session/session-registry.ts';
import type { Turn, TurnLine, TurnTimes } from './session/turn.ts';
import type { SessionStore } from './store/port.ts';
import type { Clock, Ids } from './system.ts';
import type { KeyRing } from './token/keyring.ts';
import { createTokens, scopeKindOf } from './token/token.ts';
import { createAbilities } from './upstream/abilities.ts';
import type { UpstreamTarget, UpstreamTransport } from './upstream/port.ts';
import { createSharingTransport, type SharingTransport } from './upstream/sharing.ts';

/** Services of a worker for its peers. */
export interface PeerService {
  /** Returns the worker's current id, or the one it is about to register. It changes when the worker registers again. */
  workerId(): string;
  /**
   * Handles a request forwarded by another worker: runs it at the given epoch, or answers that this worker does not own the
   * session.
   */
  serve(claims: ForwardClaims, request: TurnRequest, sink: ForwardSink): void;
  claimed(notice: Pick<ClaimedNotice, 'sessionId' | 'epoch' | 'news'>): void;
  /** Returns the actor of that session in this process, at any epoch; null when there is none. */
  session(id: string): Session | null;
  /** Returns the sessions that have an actor in this process. */
  sessions(): Iterable<Session>;
}

/** Listener of a worker for its peers. */
export interface PeerListener {
  /** Address for other workers; null when they cannot reach this one. */
  readonly url: string | null;
  /** Checks that other workers reach this one at its address under this id. Rejects otherwise. */
  check(workerId: string): Promise<void>;
  /** Closes the listener. Running requests may end within `graceMs` milliseconds. */
  close(graceMs: number): Promise<void>;
}

/** Dependencies of a worker. Everything is injected, so that a process and a simulation run the same worker. */
export interface WorkerMeans {
  config: Config;
  store: SessionStore;
  transport: UpstreamTransport;
  clock: Clock;
  ids: Ids;
  /** Returns a random number, uniform in [0, 1). */
  random(): number;
  secrets: KeyRing;
  /** Software release, for the worker's row. */
  version: string;
  livenessPath: string | null;
  /** Other workers use the same store. */
  shared: boolean;
  /** Starts the listener for peers; null when other workers send nothing here. */
  listen: ((service: PeerService) => Promise<PeerListener>) | null;
  forwarder(workerId: () => string): Forwarder;
  logger: Log<'info' | 'warn' | 'error'>;
  inspect?: Inspect;
  onAdvertised?(workerId: string): void;
  onRegistered?: ((workerId: string) => void) | undefined;
  onForwarded?(kind: ForwardResult['kind']): void;
  onPlaced?(turn: Turn, session: Session): void;
  onFinished?(line: TurnLine, request: TurnRequest, times: TurnTimes): void;
  onRefused?: QuotaOptions['onRefused'];
  onGivenUp?: QuotaOptions['onGivenUp'];
}

/** One worker: its membership, its sessions and the dispatcher that places requests on them. */
export interface Worker {
  readonly membership: Membership;
  readonly registry: SessionRegistry;
  readonly dispatcher: Dispatcher;
  readonly quota: Quota;
  readonly forwarder: Forwarder;
  readonly target: UpstreamTarget;
  readonly transport: Pick<SharingTransport, 'shared'>;
  readonly shutdown: Readonly<Shutdown>;
  /**
   * Drains: announces its leave to the other workers and hands requests over to them, then admits nothing new, lets running
   * turns end, and releases everything. The caller closes store and transport.
   */
  close(): Promise<void>;
}

/**
 * Log message of a worker that is notified of a claim while it still runs the session: another worker took it for dead or
 * unreachable.
 */
const TAKEN = 'another worker has claimed a session that runs here';

/** Time for a shutdown to wait for sessions' pending writes to the store, in milliseconds. */
const BACKGROUND_GRACE = 5_000;
/** Time for the peer listener to finish its last answers, in milliseconds. */
const INTERNAL_GRACE = 10_000;
/** Time for the last calls to the database, the close frames of upstream sockets and the last answers, in milliseconds. */
const LAST_CALLS = 5_000;

/**
 * Returns the longest duration of a worker's shutdown, in milliseconds: the lame-duck time, the drain, and 25 s for what
 * follows. An embedded database is stopped after that. A manager that kills processes must wait longer.
 */
export const longestShutdown = ({ lameDuck, drain }: Pick<Config['deadlines'], 'lameDuck' | 'drain'>): number =>
  lameDuck + drain + SETTLE_GRACE + BACKGROUND_GRACE + INTERNAL_GRACE + LAST_CALLS;

/**
 * Joins the workers of a store. Resolves when this worker may serve; rejects with the error that keeps other workers from
 * reaching it.
 */
export async function startWorker(means: WorkerMeans): Promise<Worker> {
  const { config, store, clock, ids, random, logger } = means;
  const blame = (error: unknown) => logger.error({ error: safeError(error) }, 'an observer of the machines failed');
  const inspect = means.inspect && {
    step: safely(means.inspect.step, blame),
    xstate: means.inspect.xstate && safely(means.inspect.xstate, blame),
  };
  const { deadlines, limits } = config;
  const tokens = createTokens({ secrets: means.secrets, clock, ttlSeconds: limits.retentionHours * 3600 });
  const { url, forwardHeaders, lanes } = config.upstream;
  const target: UpstreamTarget = { id: upstreamId(url), baseUrl: url, forwardHeaders, lanes };
  // A session that joins late would soon have to leave: a socket takes new ones in the first half of its life.
  const transport = createSharingTransport(means.transport, { clock, oldestMs: deadlines.socketAge / 2, log: logger });
  const abilities = createAbilities(config.upstream.transport === 'auto', clock, config.upstream.anchors);
  const registry = new SessionRegistry(limits.sockets, limits.tenantSockets);
  const quota = createQuota({ config, clock, onRefused: means.onRefused, onGivenUp: means.onGivenUp });
  const background = new Set<Promise<void>>();
  let advertisedId = '';
  const shutdown: Shutdown = { leaving: false, emptying: false, refusing: false };
  /** Peers may read this worker's row before it knows that it is registered; until then it owns nothing. */
  let ready: Dispatcher | null = null;

  const listener = means.listen
    ? await means.listen({
        workerId: () => advertisedId,
        serve({ mode, turnId, sessionId, epoch, attempt }, request, sink) {
          if (!ready) return sink.notOwner();
          if (mode === 'run' && registry.attachable(sessionId ?? '', epoch ?? -1) === null) {
            return void ready.disown(request.caller.scope, sessionId ?? '', epoch ?? -1).then(() => sink.notOwner());
          }
          if (mode === 'resolve' && shutdown.leaving) return sink.notOwner();
          const hop = { mode, turnId, sessionId, epoch, attempt, notOwner: () => sink.notOwner() };
          ready.accept(request, sink, undefined, hop);
        },
        claimed({ sessionId, epoch, news }) {
          if (news === 'close') registry.exact(sessionId, epoch)?.send({ type: 'operator.close' });
          else {
            const robbed = registry.older(sessionId, epoch);
            if (robbed) logger.warn({ session: sessionId, epoch, from: robbed.epoch }, TAKEN);
            robbed?.send({ type: 'operator.release' });
          }
        },
        session: (id) => registry.get(id),
        sessions: () => registry.all(),
      })
    : null;

  const membership = await startMembership({
    store,
    clock,
    ids,
    deadlines,
    version: means.version,
    internalUrl: listener?.url ?? null,
    livenessPath: means.livenessPath,
    log: logger,
    inspect,
    onRegistered: means.onRegistered,
    async checkReachable(id) {
      advertisedId = id;
      means.onAdvertised?.(id);
      await listener?.check(id);
    },
    onDead() {
      for (const session of [...registry.all()]) session.send({ type: 'worker.dead' });
    },
  }).catch(async (error) => {
    await listener?.close(0);
    throw error;
  });
  const me = () => membership.id;
  const forwarder = means.forwarder(me);
  const peers = createPeers({ store, forwarder, me, mayDeclareDead: membership.mayDeclareDead, random });
  const dispatcher = new Dispatcher({
    registry,
    quota,
    shared: means.shared,
    config,
    ids,
    peers: {
      ...peers,
      async forward(...hop) {
        const result = await peers.forward(...hop);
        means.onForwarded?.(result.kind);
        return result;
      },
    },
    inspect,
    shutdown,
    tokens,
    onPlaced: means.onPlaced,
    sessions: {
      store,
      transport,
      target,
      config,
      clock,
      random,
      worker: membership,
      abilities,
      log: logger,
      inspect,
      background(work) {
        background.add(work);
        void work.finally(() => background.delete(work));
      },
      issueToken(sessionId, epoch, turn) {
        const { caller } = turn.request;
        return tokens.issue({ sessionId, epoch, scope: caller.scope, scopeKind: scopeKindOf(caller) });
      },
    },
    onFinished: means.onFinished,
  });
  ready = dispatcher;
  const janitor = startJanitor({
    store,
    clock,
    random,
    everyMs: deadlines.janitor,
    retentionHours: limits.retentionHours,
    log: logger,
  });

  /** Lame duck: until the balancers notice, this worker still accepts requests and hands them to the remaining workers. */
  async function leave(): Promise<void> {
    shutdown.leaving = true;
    membership.drain();
    releaseIdle(registry);
    const stays = means.shared ? await peers.serving().catch(() => null) : null;
    if (!stays) {
      shutdown.refusing = true;
      return;
    }
    await new Promise<void>((over) => clock.after(deadlines.lameDuck, over));
    shutdown.emptying = true;
  }

  return {
    membership,
    registry,
    dispatcher,
    quota,
    forwarder,
    target,
    transport,
    shutdown,
    async close() {
      janitor.stop();
      await leave();
      await drain(registry, dispatcher, clock, deadlines.drain);
      shutdown.refusing = true;
      const over = new Promise<void>((late) => clock.after(BACKGROUND_GRACE, late));
      await Promise.race([Promise.allSettled(background), over]);
      await listener?.close(INTERNAL_GRACE);
      await membership.stop();
      await forwarder.close();
    },
  };
}

/** Returns the stored id of an upstream: its address, without parts that could be secret. */
export function upstreamId(url: string): string {
  const { protocol, host, pathname } = new URL(url);
  const address = `${protocol}//${host}${pathname}`;
  return address.length <= 80 ? address : createHash('sha256').update(address).digest('hex');
}

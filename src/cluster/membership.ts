import { workerMachine } from '../../machines/worker.ts';
import type { Config } from '../config.ts';
import type { Log } from '../log.ts';
import { type DurableActor, defineProgram, type Inspect, startActor } from '../runtime/index.ts';
import type { WorkerRegistry } from '../store/port.ts';
import type { Clock, Ids } from '../system.ts';

const program = defineProgram(workerMachine, { commits: [], version: 1 });

interface MembershipOptions {
  store: WorkerRegistry;
  clock: Clock;
  ids: Ids;
  deadlines: Pick<Config['deadlines'], 'heartbeat' | 'lease' | 'selfFence' | 'drain'>;
  version: string;
  internalUrl: string | null;
  livenessPath: string | null;
  /** Called when other workers declared this one dead, before the process takes a new identity. */
  onDead(oldId: string): void;
  /** Checks that other workers can reach this one, before it registers. An error at the first start is final. */
  checkReachable?: ((id: string) => Promise<void>) | undefined;
  /** Called each time this process has registered under a new id. */
  onRegistered?: ((id: string) => void) | undefined;
  log: Log<'info' | 'warn'>;
  inspect?: Inspect;
}

/** This process's membership among the workers of a store. */
export interface Membership {
  /** Worker id. Changes after this worker was declared dead. */
  readonly id: string;
  /**
   * Returns whether this worker may start turns (the self-fence): the last confirmed heartbeat was sent at most
   * `selfFence` ago, and the lease is not in doubt.
   */
  mayStart(): boolean;
  /**
   * Marks the lease as in doubt: the store refused an operation of this worker, or reported that the lease is about to
   * expire. No turn is started until the next heartbeat, sent at once, is confirmed.
   */
  doubt(): void;
  /**
   * Returns whether this worker may declare others dead: its heartbeats have been confirmed without a gap for a whole
   * lease, so that no worker is declared dead right after an outage.
   */
  mayDeclareDead(): boolean;
  /** Time just before the last confirmed heartbeat was sent, in monotonic milliseconds. */
  readonly confirmedAt: number;
  readonly state: string;
  readonly draining: boolean;
  drain(): void;
  /** Stops the heartbeat and stores this worker's own death. */
  stop(): Promise<void>;
}

/** Pause between two attempts to register, in milliseconds. */
const FIRST_REGISTRATION_PAUSE = 200;
/** Pause between an unanswered heartbeat and the next one, in milliseconds: a slow answer must not cost the lease. */
const REPEATED_HEARTBEAT = 500;

/**
 * Registers this process as a worker of the store. Resolves when it is registered; retries while the store does not
 * answer.
 */
export async function startMembership(options: MembershipOptions): Promise<Membership> {
  const { store, clock, ids, deadlines, log } = options;
  let id = ids.uuid();
  let actor: DurableActor<typeof workerMachine>;
  /** Time just before the last confirmed heartbeat was sent, in monotonic milliseconds. */
  let confirmedAt = Number.NEGATIVE_INFINITY;
  /** Start of the current gapless series of confirmed heartbeats, in monotonic milliseconds. */
  let steadySince = Number.POSITIVE_INFINITY;
  let registered = Promise.withResolvers<void>();
  /**
   * Number of doubts about the lease. `settled`: how many of them were resolved by a heartbeat that was sent
   * afterwards.
   */
  let doubts = 0;
  let settled = 0;
  let unanswered = false;
  let stopping: Promise<void> | null = null;
  const stopped = Promise.withResolvers<void>();

  const fresh = () => clock.now() - confirmedAt <= deadlines.selfFence;
  const confirm = (sentAt: number) => {
    if (!fresh()) steadySince = sentAt;
    confirmedAt = sentAt;
    unanswered = false;
  };
  const mayStart = () => fresh() && settled === doubts;

  /** Id that was checked last; each id is checked once. */
  let checkedId = '';
  async function isReachable(): Promise<boolean> {
    if (checkedId === id) return true;
    try {
      await options.checkReachable?.(id);
      checkedId = id;
      return true;
    } catch (error) {
      log.warn({ worker: id, err: error }, 'other workers would not find this one');
      registered.reject(error);
      return false;
    }
  }

  async function register(): Promise<void> {
    if (!(await isReachable())) return actor.send({ type: 'registration.failed' });
    const sentAt = clock.now();
    const { internalUrl, livenessPath, version } = options;
    const answer = await store.register({ id, internalUrl, livenessPath, version, leaseMs: deadlines.lease });
    if (answer.verdict === 'ok') {
      confirm(sentAt);
      settled = doubts;
      options.onRegistered?.(id);
      registered.resolve();
      actor.send({ type: 'registration.confirmed' });
    } else {
      log.warn({ worker: id, reason: answer.reason }, 'registration is not answered yet');
      actor.send({ type: 'registration.failed' });
    }
  }

  async function beat(): Promise<void> {
    const mine = id;
    const sentAt = clock.now();
    const settles = doubts;
    const { internalUrl, livenessPath, version } = options;
    const state = actor.state.startsWith('draining') ? 'draining' : 'serving';
    const answer = await store.heartbeat(mine, state, deadlines.lease, { internalUrl, livenessPath, version });
    if (mine !== id) return;
    unanswered = answer.verdict !== 'ok';
    if (answer.verdict === 'ok') {
      if (answer.restored) log.warn({ worker: id }, 'the database had lost the row of this worker: it is restored');
      confirm(sentAt);
      settled = settles;
      actor.send({ type: 'heartbeat.confirmed' });
      // A doubt that arose during this heartbeat needs another one.
      if (settled < doubts) actor.send({ type: 'heartbeat.wanted' });
    } else if (answer.verdict === 'dead') actor.send({ type: 'heartbeat.answered_dead' });
    else actor.send({ type: 'heartbeat.unanswered' });
  }

  function beginAgain(): void {
    const oldId = id;
    log.warn({ worker: oldId }, 'declared dead by another worker: beginning again under a new id');
    confirmedAt = Number.NEGATIVE_INFINITY;
    steadySince = Number.POSITIVE_INFINITY;
    id = ids.uuid();
    registered = Promise.withResolvers<void>();
    options.onDead(oldId);
    actor = start();
  }

  const start = () =>
    startActor(program, {
      id: `worker:${id}`,
      input: undefined as never,
      clock,
      durations(name) {
        if (name === 'heartbeat')
          return unanswered ? Math.min(REPEATED_HEARTBEAT, deadlines.heartbeat) : deadlines.heartbeat;
        // The drain has its own deadline; this one only guarantees that draining ends.
        return name === 'drainLimit' ? deadlines.drain * 2 + 10_000 : FIRST_REGISTRATION_PAUSE;
      },
      perform({ type }) {
        if (type === 'register') void register();
        else if (type === 'beat') void beat();
        else if (type === 'abandon') beginAgain();
        else if (type === 'declareSelfDead') {
          confirmedAt = Number.NEGATIVE_INFINITY;
          void store.declareDead(id).then(() => stopped.resolve());
        }
      },
      inspect: options.inspect,
      onError: (error) => log.warn({ err: error }, 'a membership effect failed'),
    });
  actor = start();
  await registered.promise;
  log.info({ worker: id }, 'registered');

  return {
    get id() {
      return id;
    },
    mayStart,
    doubt() {
      doubts += 1;
      actor.send({ type: 'heartbeat.wanted' });
    },
    mayDeclareDead: () => fresh() && clock.now() - steadySince >= deadlines.lease,
    get confirmedAt() {
      return confirmedAt;
    },
    get state() {
      return actor.state;
    },
    get draining() {
      return actor.state.startsWith('draining') || actor.stopped;
    },
    drain: () => actor.send({ type: 'drain.requested' }),
    stop() {
      stopping ??= (async () => {
        if (actor.state.startsWith('draining')) actor.send({ type: 'drain.finished' });
        else actor.send({ type: 'stop.requested' });
        await stopped.promise;
      })();
      return stopping;
    },
  };
}

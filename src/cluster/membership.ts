import { workerMachine } from '../../machines/worker.ts';
import type { Clock } from '../clock.ts';
import type { Config } from '../config.ts';
import type { Ids } from '../ids.ts';
import { type DurableActor, defineProgram, type Inspect, startActor } from '../runtime/index.ts';
import type { WorkerRegistry } from '../store/port.ts';

const program = defineProgram(workerMachine, { commits: [], version: 1 });

export interface MembershipOptions {
  store: WorkerRegistry;
  clock: Clock;
  ids: Ids;
  deadlines: Pick<Config['deadlines'], 'heartbeat' | 'lease' | 'selfFence' | 'drain'>;
  version: string;
  internalUrl: string | null;
  livenessPath: string | null;
  /** Called when others declared this worker dead, before the process takes a new identity. */
  onDead(oldId: string): void;
  /** Makes sure that others would find this worker, before it registers. What it throws at the first start is final. */
  announce?: ((id: string) => Promise<void>) | undefined;
  /** Called whenever this process has registered under a new id. */
  onRegistered?: ((id: string) => void) | undefined;
  log: { info(o: object, m: string): void; warn(o: object, m: string): void };
  inspect?: Inspect;
}

/** This process as the others know it. */
export interface Membership {
  /** Changes when this worker was declared dead and began again. */
  readonly id: string;
  /** The self-fence: no frame leaves later than this after the last confirmed heartbeat was sent. */
  mayStart(): boolean;
  /**
   * The store has said that this worker may not act, or that little is left of its lease: until the next heartbeat is
   * confirmed nothing is started, and that heartbeat is sent at once.
   */
  doubt(): void;
  /** Only who was alive without a gap for a whole lease may declare others dead: nobody is judged right after an outage. */
  mayJudge(): boolean;
  /** Monotonic milliseconds just before the last confirmed heartbeat was sent. */
  readonly confirmedAt: number;
  readonly state: string;
  readonly draining: boolean;
  drain(): void;
  /** Ends the heartbeat and stores this worker's own death. */
  stop(): Promise<void>;
}

const FIRST_REGISTRATION_PAUSE = 200;
/** Milliseconds between a heartbeat that was not answered and the next: a lease is not to lapse over a slow answer. */
const REPEATED_HEARTBEAT = 500;

/** Joins the workers of a store. Resolves when this worker is registered; keeps trying while the store is silent. */
export async function startMembership(options: MembershipOptions): Promise<Membership> {
  const { store, clock, ids, deadlines, log } = options;
  let id = ids.uuid();
  let actor: DurableActor<typeof workerMachine>;
  /** Monotonic milliseconds just before the last confirmed heartbeat was sent. */
  let confirmedAt = Number.NEGATIVE_INFINITY;
  /** Since when heartbeats have been confirmed without a gap. */
  let steadySince = Number.POSITIVE_INFINITY;
  let registered = Promise.withResolvers<void>();
  /** Times the lease was doubted, and how many of them a heartbeat has settled that was sent after them. */
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

  /** Id that was announced last: once is enough for each. */
  let announced = '';
  async function announce(): Promise<boolean> {
    if (announced === id) return true;
    try {
      await options.announce?.(id);
      announced = id;
      return true;
    } catch (error) {
      log.warn({ worker: id, err: error }, 'other workers would not find this one');
      registered.reject(error);
      return false;
    }
  }

  async function register(): Promise<void> {
    if (!(await announce())) return actor.send({ type: 'registration.failed' });
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
      // Doubted while it was under way: it has settled nothing.
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
        // The drain itself ends by its own deadline; this one only makes sure that a worker cannot drain for ever.
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
    mayJudge: () => fresh() && clock.now() - steadySince >= deadlines.lease,
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

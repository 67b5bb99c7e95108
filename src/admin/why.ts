import type { SessionRow, WorkerRow } from '../store/port.ts';

/** State of a session when it is inspected. */
export interface Standing {
  session: Pick<SessionRow, 'state' | 'ownerWorkerId' | 'activeTurnId' | 'headTurnId' | 'anchorLost'>;
  owner: Pick<WorkerRow, 'state' | 'leaseLeftMs'> | null;
  /** True when the head's context can be rebuilt or is kept by the provider; null without a head. */
  headContinuable: boolean | null;
  /** Dotted state of the session's actor; null when there is none, or when its owner did not answer. */
  actor: string | null;
}

/** Explanation of a session's state and of how it can leave it, one sentence each. */
export interface WhyAndExit {
  why: string;
  exit: string;
}

const seconds = (ms: number) => `${Math.max(0, Math.ceil(ms / 1000))} s`;

function ofBusy({ owner, actor }: Standing): WhyAndExit {
  if (!owner) {
    return {
      why: 'A turn is active at a worker that has no row, as after a failover of the database.',
      exit: 'The next request records that worker, waits out its lease, declares it dead and takes the session over.',
    };
  }
  if (owner.state === 'dead') {
    return {
      why: 'Its worker died while a turn was running.',
      exit: 'The next request takes the session over at once; the turn becomes lost.',
    };
  }
  if (owner.leaseLeftMs < 0) {
    return {
      why: 'A turn is active at a worker whose heartbeat has stopped.',
      exit: 'The next request declares that worker dead and takes the session over; if it lives after all, its turn stays as a branch.',
    };
  }
  if (actor?.startsWith('reconnecting.resending')) {
    return {
      why: 'The socket of a started turn was lost before anything was shown; a new one is being opened.',
      exit: 'The turn is sent once more, unseen by its client; when the connect deadline is over it ends as lost.',
    };
  }
  if (actor?.includes('settling')) {
    return {
      why: 'A turn has ended, and its end is being stored.',
      exit: 'The store answers; until then the same is asked again, and the client gets its end after the settle wait.',
    };
  }
  return {
    why: 'A turn is running at a live worker.',
    exit: `It ends with its terminal, its budget or its client's grace; if that worker falls silent, after its lease (${seconds(owner.leaseLeftMs)} left).`,
  };
}

function afterwards({ session, headContinuable }: Standing): string {
  if (session.headTurnId === null) return 'The next request starts it anew.';
  if (session.anchorLost || headContinuable === false) {
    return 'A request that sends the whole conversation goes on; one that only names the last response is refused honestly.';
  }
  return 'The next request continues it from its durable state.';
}

/** Explains every combination of row, owner and actor. No combination is without an exit. */
export function whyAndExit(standing: Standing): WhyAndExit {
  const { session, owner, actor } = standing;
  if (session.state === 'closed') {
    return { why: 'Closed for good; its keys are free.', exit: 'The janitor removes it when its retention is over.' };
  }
  if (session.activeTurnId !== null) return ofBusy(standing);
  if (session.ownerWorkerId === null) {
    return {
      why: 'Nobody owns it: it was given back, taken from its owner, or never continued.',
      exit: afterwards(standing),
    };
  }
  if (!owner || owner.state === 'dead' || owner.leaseLeftMs < 0) {
    return { why: 'Its worker is gone; no turn was running.', exit: afterwards(standing) };
  }
  if (actor?.startsWith('reconnecting')) {
    return {
      why: 'A request waits while its socket is opened.',
      exit: 'The turn starts, or fails when the connect deadline is over.',
    };
  }
  if (actor?.startsWith('live.committing')) {
    return { why: 'A turn waits for its start to be durable.', exit: 'It starts, or is refused after the start wait.' };
  }
  return {
    why: 'A live worker keeps its socket warm; no turn is running.',
    exit: 'The next request uses that socket; it is given back when idle for long, when it is old, or at shutdown.',
  };
}

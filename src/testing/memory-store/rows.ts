import type { SessionRow, TurnRow, WorkerRow } from '../../store/port.ts';
import { asStored, type SessionRecord, type TurnRecord, type WorkerRecord } from './database.ts';

/** Copies a record into the port's shape: callers must not see later changes. */
export function sessionRow({ lostTurnId: _, createdAt: __, updatedAt: ___, ...session }: SessionRecord): SessionRow {
  return { ...session, snapshot: asStored(session.snapshot) };
}

export function turnRow(record: TurnRecord): TurnRow {
  const { ordinal, secondFp, thirdFp, forms, itemIds, branched, usage, error, facts, startedAt, endedAt, ...turn } =
    record;
  return turn;
}

export function workerRow({ heartbeatExpiresAt, ...worker }: WorkerRecord, now: number): WorkerRow {
  return { ...worker, leaseLeftMs: Math.floor(heartbeatExpiresAt - now) };
}

import type { InferEntity } from '@mikro-orm/core';
import type { EntityManager } from '@mikro-orm/postgresql';
import { sql } from 'kysely';
import { Worker, type WorkerRow } from '../entities.ts';
import type { Answer, HeartbeatVerdict, Purged, PurgeStep, Registration, WorkerRegistry } from '../port.ts';
import type { Executor } from './executor.ts';
import { answered, callFunction, functionCall, optionalText, RowRepository } from './orm.ts';
import { workerJson } from './statements.ts';

/**
 * Workers: their leases and deaths, and the steps of the janitor.
 *
 * Heartbeats use a connection of their own, so that a pool full of waiting calls cannot make a healthy worker look dead.
 */
export class WorkerRepository extends RowRepository<InferEntity<typeof Worker>, WorkerRow> {
  readonly #beats: Executor;

  constructor(em: EntityManager, executor: Executor, beats: Executor) {
    super(em, Worker, executor);
    this.#beats = beats;
  }

  register({ id, leaseMs, ...worker }: Parameters<WorkerRegistry['register']>[0]): Promise<Answer<{ verdict: 'ok' }>> {
    return callFunction(this.#beats, 'holdfast_register', () => [
      id,
      optionalText(worker.internalUrl),
      optionalText(worker.livenessPath),
      worker.version,
      leaseMs,
    ]);
  }

  heartbeat(
    id: string,
    state: 'serving' | 'draining',
    leaseMs: number,
    registration?: Registration,
  ): Promise<Answer<HeartbeatVerdict>> {
    return callFunction(this.#beats, 'holdfast_heartbeat', () => [
      id,
      state,
      leaseMs,
      optionalText(registration?.internalUrl ?? null),
      optionalText(registration?.livenessPath ?? null),
      registration?.version ?? null,
    ]);
  }

  declareExpired(id: string): Promise<Answer<{ verdict: 'dead' | 'alive' }>> {
    return callFunction(this.executor, 'holdfast_declare_expired', () => [id]);
  }

  declareDead(id: string): Promise<Answer<{ verdict: 'dead' }>> {
    return callFunction(this.executor, 'holdfast_declare_dead', () => [id]);
  }

  /** Leases are measured by the clock of the database. */
  async workers(): Promise<readonly WorkerRow[]> {
    const rows = await answered(
      this.query
        .selectFrom('worker as w')
        .select([
          sql<WorkerRow>`${sql.raw(workerJson('w'))}`.as('row'),
          sql<number>`(extract(epoch from w.heartbeat_expires_at) * 1000)::float8`.as('leaseUntilMs'),
        ])
        .orderBy('w.created_at')
        .execute(),
    );
    return rows.map(({ row, leaseUntilMs }) => ({ ...row, leaseUntilMs }));
  }

  async purge({ kind, olderThanHours, limit, after }: PurgeStep): Promise<Purged> {
    const [row] = await this.read<{ answer: string }>(functionCall(`holdfast_purge_${kind}`, 3), [
      olderThanHours,
      after,
      limit,
    ]);
    return JSON.parse(row!.answer) as Purged;
  }
}

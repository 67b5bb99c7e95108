import type { FailedRequest } from '../observe/failures.ts';
import type { Asked } from './admin.ts';
import { type ListedSession, sessionPage } from './sessions.ts';

/** State of all workers at one moment, as the live view shows it. */
export interface Overview {
  /** Wall-clock time, in milliseconds. */
  at: number;
  workers: {
    id: string;
    state: string;
    version: string;
    leaseLeftMs: number;
    /** It gave this answer; the rates are its own, or those of all processes behind its port. */
    here: boolean;
    sessions: number;
    busy: number;
  }[];
  /** Sessions with a running turn, the one that changed last first. */
  running: ListedSession[];
  /** Number of all sessions; capped, see `MOST_COUNTED`. */
  sessions: number;
  /** Newest first. */
  failures: FailedRequest[];
  /** Counters of the worker that answered, since its start. */
  counts: {
    turns: number;
    /** Turns by outcome. */
    outcomes: Record<string, number>;
    faults: number;
    bytesFromClients: number;
    bytesSaved: number;
  };
  /** Readings of that worker. */
  gauges: { turnsInFlight: number; queued: number; sockets: number; connections: number; heartbeatAgeMs: number };
}

/** Most running turns and failures that the view shows. */
const MOST_SHOWN = 20;

/**
 * Returns the samples of a metrics page by name: labels and value.
 *
 * @param page in the text format of Prometheus
 */
function samplesOf(page: string): Map<string, { labels: Record<string, string>; value: number }[]> {
  const samples = new Map<string, { labels: Record<string, string>; value: number }[]>();
  for (const [, name, labels = '', value] of page.matchAll(/^(\w+)(?:\{(.*)\})? (\S+)$/gm)) {
    const named = Object.fromEntries([...labels.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]));
    const known = samples.get(name!) ?? [];
    known.push({ labels: named, value: Number(value) });
    samples.set(name!, known);
  }
  return samples;
}

/**
 * Reads the overview from the admin API.
 *
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function readOverview(at: Asked): Promise<Overview> {
  const [{ workers }, busy, all, { failures }, page] = await Promise.all([
    at.json<{ workers: Overview['workers'] }>('/admin/workers'),
    sessionPage(at, { busy: '1', limit: String(MOST_SHOWN) }),
    sessionPage(at, { limit: '1' }),
    at.json<{ failures: FailedRequest[] }>(`/admin/failures?limit=${MOST_SHOWN}`),
    at.text('/metrics'),
  ]);
  const samples = samplesOf(page);
  const sum = (name: string) => (samples.get(name) ?? []).reduce((total, { value }) => total + value, 0);
  const outcomes = new Map<string, number>();
  for (const { labels, value } of samples.get('holdfast_turns_total') ?? []) {
    const outcome = labels.outcome ?? 'unknown';
    if (value > 0) outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + value);
  }
  return {
    at: Date.now(),
    workers,
    running: busy.sessions,
    sessions: all.total,
    failures,
    counts: {
      turns: sum('holdfast_turns_total'),
      outcomes: Object.fromEntries(outcomes),
      faults: sum('holdfast_turn_faults_total'),
      bytesFromClients: sum('holdfast_turn_client_bytes_total'),
      bytesSaved: sum('holdfast_turn_saved_bytes_total'),
    },
    gauges: {
      turnsInFlight: sum('holdfast_turns_in_flight'),
      queued: sum('holdfast_queue_length'),
      sockets: sum('holdfast_upstream_sockets'),
      connections: sum('holdfast_connections'),
      heartbeatAgeMs: sum('holdfast_heartbeat_age_milliseconds'),
    },
  };
}

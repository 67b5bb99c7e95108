import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ChaosOptions } from './chaos.ts';
import type { Rule } from './faults.ts';
import { readBody } from './http.ts';
import { answer } from './http-wires.ts';
import type { EntryKind, JournalEntry } from './journal.ts';
import type { Simulator } from './types.ts';

/** Commands to a simulator in another process. */
interface Orders {
  drop?: 'reset' | number;
  expireCaches?: boolean;
  /** A response id, or true for all. */
  forgetStored?: string | boolean;
  /** Id of the rule whose holds are released. */
  release?: number;
  /** Null stops the chaos. */
  chaos?: ChaosOptions | null;
}

async function readJournal(simulator: Simulator, url: URL): Promise<readonly JournalEntry[]> {
  const since = Number(url.searchParams.get('since') ?? 0);
  const kind = url.searchParams.get('kind') as EntryKind | null;
  const matching = () =>
    simulator.journal.entries.filter((entry) => entry.seq > since && (kind === null || entry.kind === kind));
  const found = matching();
  const timeoutMs = Number(url.searchParams.get('wait') ?? 0);
  if (found.length > 0 || timeoutMs === 0 || kind === null) return found;
  await simulator.journal.next(kind, () => true, { timeoutMs }).catch(() => undefined);
  return matching();
}

/**
 * Exposes the simulator's control interface over HTTP, for tests of whole processes: `GET
 * /__journal?since=SEQ&kind=KIND&wait=MS` (waits for the first entry of that kind), `DELETE /__journal`, `POST
 * /__script` (a rule or a list of rules), `DELETE /__script`, `POST /__control`, `GET /__state`.
 *
 * @returns false for any other path
 */
export async function serveControl(simulator: Simulator, req: IncomingMessage, res: ServerResponse): Promise<boolean> {
  const url = new URL(req.url ?? '/', 'http://simulator');
  if (!url.pathname.startsWith('/__')) return false;
  const call = `${req.method} ${url.pathname}`;
  const body = async (): Promise<unknown> => JSON.parse((await readBody(req)) || 'null');
  switch (call) {
    case 'GET /__journal':
      answer(res, 200, { entries: await readJournal(simulator, url) });
      break;
    case 'DELETE /__journal':
      simulator.journal.clear();
      answer(res, 200, {});
      break;
    case 'POST /__script': {
      const rules = [await body()].flat() as Rule[];
      answer(res, 200, { rules: rules.map((rule) => simulator.script(rule).id) });
      break;
    }
    case 'DELETE /__script':
      simulator.script.clear();
      answer(res, 200, {});
      break;
    case 'POST /__control': {
      const orders = (await body()) as Orders;
      if (orders.drop !== undefined) simulator.dropAll(orders.drop);
      if (orders.expireCaches) simulator.expireCaches();
      if (orders.forgetStored)
        simulator.forgetStored(typeof orders.forgetStored === 'string' ? orders.forgetStored : undefined);
      if (orders.release !== undefined) simulator.script.handle(orders.release)?.release();
      if (orders.chaos !== undefined) simulator.chaos(orders.chaos ?? { rates: {} });
      answer(res, 200, {});
      break;
    }
    case 'GET /__state':
      answer(res, 200, {
        url: simulator.url,
        seed: simulator.seed,
        connections: simulator.connections.map(({ id, open, cachedResponseIds }) => ({ id, open, cachedResponseIds })),
      });
      break;
    default:
      answer(res, 404, { error: { message: `No such control: ${call}` } });
  }
  return true;
}

import { createServer, type Server, type Socket } from 'node:net';
import { createForwardTokens, type ForwardClaims, type ForwardTokens } from '../../../src/cluster/forward/envelope.ts';
import type { ForwardSink } from '../../../src/cluster/forward/receiver.ts';
import { type InternalServer, startInternalServer } from '../../../src/cluster/forward/receiver.ts';
import { createForwarder, type Forwarder } from '../../../src/cluster/forward/sender.ts';
import type { BridgeError } from '../../../src/errors.ts';
import { createReader } from '../../../src/intake/pool.ts';
import { readSource } from '../../../src/intake/read.ts';
import type { Patience, Waiting } from '../../../src/session/forwarding.ts';
import type { AnswerHead, ClientSink, TurnRequest } from '../../../src/session/port.ts';
import { type Clock, systemClock } from '../../../src/system.ts';
import { parseSecrets } from '../../../src/token/keyring.ts';
import type { UpstreamAnswer } from '../../../src/upstream/port.ts';

export const SECRETS = 'k1:0123456789abcdef0123456789abcdef';
export const secrets = () => parseSecrets(SECRETS);
export const CREDENTIAL = 'Bearer sk-very-secret-credential';

export type Call =
  | { call: 'head'; head: AnswerHead }
  | { call: 'event'; type: string; json: string; telemetry: boolean }
  | { call: 'open' }
  | { call: 'cut' }
  | { call: 'end'; type: string; json: string }
  | { call: 'fail'; error: BridgeError }
  | { call: 'relay'; answer: UpstreamAnswer };

/** A client whose reading and presence the test controls. */
export interface FakeClient extends ClientSink {
  readonly calls: Call[];
  /** Stops reading until `drain`. */
  stall(): void;
  drain(): void;
  leave(): void;
  /** Resolves when `count` calls were made. */
  called(count: number): Promise<void>;
}

export function fakeClient(): FakeClient {
  const calls: Call[] = [];
  const gone: (() => void)[] = [];
  const drains: (() => void)[] = [];
  const waiting: { count: number; done: () => void }[] = [];
  let stalled = false;
  let attached = true;
  const add = (call: Call) => {
    calls.push(call);
    for (const each of waiting) if (calls.length >= each.count) each.done();
  };
  return {
    calls,
    head: (head) => add({ call: 'head', head }),
    event(type, json, telemetry) {
      add({ call: 'event', type, json, telemetry });
      return !stalled;
    },
    open: () => add({ call: 'open' }),
    end: (type, json) => add({ call: 'end', type, json }),
    fail: (error) => add({ call: 'fail', error }),
    relay: (answer) => add({ call: 'relay', answer }),
    cut() {
      add({ call: 'cut' });
    },
    get attached() {
      return attached;
    },
    shown: false,
    committed: false,
    onGone: (listener) => (attached ? void gone.push(listener) : listener()),
    onDrain: (listener) => void drains.push(listener),
    onDelivered: () => {},
    stall: () => void (stalled = true),
    drain() {
      stalled = false;
      for (const listener of drains) listener();
    },
    leave() {
      attached = false;
      for (const listener of gone.splice(0)) listener();
    },
    called: (count) =>
      calls.length >= count ? Promise.resolve() : new Promise((done) => waiting.push({ count, done })),
  };
}

export function turnRequest(
  body: Record<string, unknown> = { model: 'm', stream: true, input: 'hi' },
  text = JSON.stringify(body),
): TurnRequest {
  return {
    requestId: 'req-1',
    caller: {
      scope: 'cred:abc',
      credentialFp: 'abc',
      upstreamAuthorization: CREDENTIAL,
      credentialIsClients: true,
    },
    headers: { authorization: CREDENTIAL, 'thread-id': 'thread-1', 'user-agent': 'codex' },
    ...readSource(text, 'body').request,
    receivedAt: systemClock.now(),
  };
}

export interface Log {
  level: string;
  fields: object;
  message: string;
}

/** Creates a logger that keeps its lines. */
export function memoryLog() {
  const lines: Log[] = [];
  const at = (level: string) => (fields: object, message: string) => void lines.push({ level, fields, message });
  return { lines, debug: at('debug'), warn: at('warn'), error: at('error') };
}

export interface Served {
  hop: ForwardClaims;
  request: TurnRequest;
  sink: ForwardSink;
}

export const DEADLINES = { forwardConnect: 2_000, forwardAccepted: 5_000, forwardSilence: 10_000, ownerPoll: 100 };
export const TURN = { sessionId: 's1', epoch: 3, turnId: 't1', mode: 'run', attempt: 0 } as const;

/** Creates a `Patience` that returns these answers, one per call, and then repeats the last. */
export function patience(...answers: Awaited<ReturnType<Patience['ask']>>[]) {
  const asked: string[] = [];
  let heard = 0;
  let dropped = 0;
  return {
    asked,
    get droppedCount() {
      return dropped;
    },
    dropped() {
      dropped += 1;
    },
    get heardCount() {
      return heard;
    },
    async ask() {
      const answer = (answers.length > 1 ? answers.shift() : answers[0]) ?? 'slow';
      asked.push(answer);
      return answer;
    },
    heard() {
      heard += 1;
    },
  };
}
/** Returns a `Waiting` for a peer that is slow forever. */
export const patient = (): Waiting => ({ patience: patience('slow') });
/** Returns a `Waiting` for a peer whose death is stored at the first check. */
export const forDead = (): Waiting => ({ patience: patience('dead') });

/** Starts the owner's side, and hands out requests one by one as they arrive. */
export async function startOwner(
  options: { workerId?: string; clock?: Clock; silence?: number; onServe?(): void } = {},
) {
  const { workerId = 'worker-a', clock = systemClock } = options;
  const log = memoryLog();
  const arrived: Served[] = [];
  const waiting: ((served: Served) => void)[] = [];
  const claims: unknown[] = [];
  const forwardTokens: ForwardTokens = createForwardTokens({ secrets: secrets(), clock });
  const server: InternalServer = await startInternalServer({
    host: '127.0.0.1',
    port: 0,
    workerId: () => workerId,
    forwardTokens,
    clock,
    limits: { bodyBytes: 33_554_432 },
    reader: createReader({ logger: log }),
    deadlines: { forwardSilence: options.silence ?? 10_000, slowClient: 60_000 },
    serve(hop, request, sink) {
      options.onServe?.();
      const next = waiting.shift();
      if (next) next({ hop, request, sink });
      else arrived.push({ hop, request, sink });
    },
    onClaimed: (notice) => void claims.push(notice),
    onView: (question) => ({ asked: question }),
    logger: log,
  });
  return {
    server,
    log,
    forwardTokens,
    claims,
    arrived,
    peer: { workerId, url: server.url },
    next: (): Promise<Served> => {
      const first = arrived.shift();
      return first ? Promise.resolve(first) : new Promise((resolve) => waiting.push(resolve));
    },
    close: () => server.close(0),
  };
}

/** Starts the side that holds the client. */
export function startSender(deadlines: Partial<typeof DEADLINES> = {}, clock: Clock = systemClock) {
  const log = memoryLog();
  const forwardTokens = createForwardTokens({ secrets: secrets(), clock });
  const forwarder: Forwarder = createForwarder({
    forwardTokens,
    clock,
    workerId: () => 'worker-b',
    deadlines: { ...DEADLINES, ...deadlines },
    logger: log,
  });
  return { forwarder, forwardTokens, log, close: () => forwarder.close() };
}

/** Starts a TCP server whose connections the test handles. */
export async function startTcp(onSocket: (socket: Socket) => void) {
  const sockets = new Set<Socket>();
  const server: Server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => {});
    socket.on('close', () => sockets.delete(socket));
    onSocket(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  return {
    port,
    url: `http://127.0.0.1:${port}`,
    sockets,
    cut: () => {
      for (const socket of sockets) socket.resetAndDestroy();
    },
    async close() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

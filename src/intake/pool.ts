import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { type BridgeCode, BridgeError } from '../errors.ts';
import type { Flat, Kind, Read } from './read.ts';
import { readSource, unflatten } from './read.ts';
import type { Job } from './thread.ts';

/** What a reading thread says of one body. `failed` names an error that is ours. */
export type Answer =
  | { flat: Flat }
  | { refused: { code: BridgeCode; param: string | null; detail: string | null } }
  | { failed: string };

/** A body as it was received: its bytes in the order they came, or its text. */
export type Source = readonly Uint8Array[] | string;

/** Reads bodies: small ones at once, all others in threads beside the event loop. */
export interface Reader {
  /**
   * Reads one body. Rejects with `BridgeError`.
   *
   * @param source given away: the memory of its parts is moved to the thread that reads them
   * @param gone ends the wait of a body whose client has left
   */
  read(source: Source, kind: Kind, gone?: AbortSignal): Promise<Read>;
  /** Ends the threads. What is being read is refused. */
  close(): Promise<void>;
}

/** Below this many bytes a body is read faster than it is handed to a thread, whatever it holds. */
export const INLINE_BYTES = 32_768;

/** Bodies read at the same time. More threads than cores would only make each of them slower. */
const THREADS = 2;

/** Heap of one thread, MiB: a body of 32 MiB with the most values needs half of it. */
const HEAP_MB = 1_024;

/** A thread that reads longer than this is ended, milliseconds. */
const LONGEST_MS = 20_000;

interface Waiting {
  job: Job;
  answered(read: Read): void;
  refused(error: BridgeError): void;
}

interface Thread {
  worker: Worker;
  /** What it reads now. */
  reading: Waiting | null;
  stopTimer(): void;
}

export interface ReaderOptions {
  logger: { error(fields: object, message: string): void };
  inlineBytes?: number;
  threads?: number;
  /** Heap of one thread, MiB. */
  heapMb?: number;
  /** How long one body may be read, milliseconds. */
  longestMs?: number;
}

const PATH = join(import.meta.dirname, `thread.${import.meta.filename.split('.').at(-1)}`);

const sizeOf = (source: Source) =>
  typeof source === 'string' ? source.length : source.reduce((sum, { byteLength }) => sum + byteLength, 0);

/** A part whose memory is its own, so that it can be moved. */
const ownMemory = (part: Uint8Array): Uint8Array<ArrayBuffer> =>
  part.byteLength === part.buffer.byteLength && part.buffer instanceof ArrayBuffer
    ? (part as Uint8Array<ArrayBuffer>)
    : new Uint8Array(part);

const costly = (why: string) =>
  new BridgeError('bridge_body_too_large', { detail: `It takes more ${why} to read than one request may have.` });

function errorOf(answer: Exclude<Answer, { flat: Flat }>, log: ReaderOptions['logger']): BridgeError {
  if ('refused' in answer) {
    const { code, param, detail } = answer.refused;
    return new BridgeError(code, { ...(param !== null && { param }), ...(detail !== null && { detail }) });
  }
  log.error({ reason: answer.failed }, 'reading a body failed unexpectedly');
  return new BridgeError('bridge_internal');
}

/** The threads are started when there is something for them to read, and again when one has died. */
export function createReader(options: ReaderOptions): Reader {
  const { logger, inlineBytes = INLINE_BYTES, threads: most = THREADS, heapMb = HEAP_MB } = options;
  const { longestMs = LONGEST_MS } = options;
  const threads = new Set<Thread>();
  let queue: Waiting[] = [];
  let closed = false;

  function start(): Thread {
    // Neither the flags nor the environment of the process concern it, and there are secrets among them.
    const worker = new Worker(PATH, {
      execArgv: [],
      env: {},
      resourceLimits: { maxOldGenerationSizeMb: heapMb, maxYoungGenerationSizeMb: 64 },
    });
    const thread: Thread = { worker, reading: null, stopTimer: () => {} };
    threads.add(thread);
    worker.on('message', (answer: Answer) => {
      const waiting = done(thread);
      if ('flat' in answer) waiting?.answered(unflatten(answer.flat));
      else waiting?.refused(errorOf(answer, logger));
      next();
    });
    worker.on('error', (error: Error & { code?: string }) => {
      if (error.code === 'ERR_WORKER_OUT_OF_MEMORY') return ended(thread, costly('memory'));
      logger.error({ err: error }, 'a reading thread failed');
      ended(thread, new BridgeError('bridge_internal'));
    });
    worker.on('exit', () => ended(thread, new BridgeError('bridge_internal')));
    return thread;
  }

  function done(thread: Thread): Waiting | null {
    const { reading } = thread;
    thread.stopTimer();
    thread.reading = null;
    // An idle thread must not keep a process alive that has nothing else to do.
    thread.worker.unref();
    return reading;
  }

  function ended(thread: Thread, error: BridgeError): void {
    threads.delete(thread);
    done(thread)?.refused(error);
    next();
  }

  function next(): void {
    if (closed || queue.length === 0) return;
    const idle = [...threads].find(({ reading }) => reading === null) ?? (threads.size < most ? start() : null);
    if (!idle) return;
    const waiting = queue.shift()!;
    idle.reading = waiting;
    idle.worker.ref();
    const { parts } = waiting.job;
    idle.worker.postMessage(
      waiting.job,
      typeof parts === 'string' ? [] : parts.map(({ buffer }) => buffer as ArrayBuffer),
    );
    const timer = setTimeout(() => {
      ended(idle, costly('time'));
      void idle.worker.terminate();
    }, longestMs);
    idle.stopTimer = () => clearTimeout(timer);
  }

  function readElsewhere(source: Source, kind: Kind, gone?: AbortSignal): Promise<Read> {
    const { promise, resolve, reject } = Promise.withResolvers<Read>();
    const leave = () => {
      queue = queue.filter((each) => each !== waiting);
      reject(new BridgeError('bridge_turn_cancelled'));
    };
    const waiting: Waiting = {
      job: { parts: typeof source === 'string' ? source : source.map(ownMemory), kind },
      answered: resolve,
      refused: reject,
    };
    if (gone?.aborted) leave();
    else {
      gone?.addEventListener('abort', leave, { once: true });
      // A peer waits for its acceptance, and has read the request once already.
      if (kind === 'parcel') queue.unshift(waiting);
      else queue.push(waiting);
      next();
    }
    return promise.finally(() => gone?.removeEventListener('abort', leave));
  }

  return {
    async read(source, kind, gone) {
      if (closed) throw new BridgeError('bridge_draining');
      if (sizeOf(source) >= inlineBytes) return readElsewhere(source, kind, gone);
      return readSource(typeof source === 'string' ? source : Buffer.concat(source), kind);
    },
    async close() {
      closed = true;
      for (const { refused } of queue.splice(0)) refused(new BridgeError('bridge_draining'));
      await Promise.all([...threads].map(({ worker }) => worker.terminate()));
    },
  };
}

import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { BridgeError } from '../errors.ts';
import type { Log } from '../log.ts';
import { type Answer, type Flat, type Job, type Kind, type Read, readSource, unflatten } from './read.ts';

/** A body as received: its bytes in order, or its text. */
export type Source = readonly Uint8Array[] | string;

/** Reads bodies: small ones synchronously, larger ones in worker threads. */
export interface Reader {
  /**
   * Reads one body.
   *
   * @param source transferred: the memory of its parts is moved to the reading thread
   * @param gone ends the wait for the result when the client has disconnected
   * @throws BridgeError if the body is refused, or if this reader is closed
   */
  read(source: Source, kind: Kind, gone?: AbortSignal): Promise<Read>;
  /** Stops the threads. Bodies that are waiting or being read are refused. */
  close(): Promise<void>;
}

/** Below this size in bytes a body is read faster than it is handed to a thread, whatever its content. */
export const INLINE_BYTES = 32_768;

/** Maximum number of bodies read at the same time. More threads than cores would only slow each of them down. */
const THREADS = 2;

/** Heap of one thread, in MiB: a body of 32 MiB with the maximum number of values needs half of it. */
const HEAP_MB = 1_024;

/** Time after which a thread that is still reading one body is terminated, in milliseconds. */
const LONGEST_MS = 20_000;

interface Waiting {
  job: Job;
  answered(read: Read): void;
  refused(error: BridgeError): void;
}

interface Thread {
  worker: Worker;
  /** Body that it is reading now. */
  reading: Waiting | null;
  stopTimer(): void;
}

interface ReaderOptions {
  logger: Log<'error'>;
  inlineBytes?: number;
  threads?: number;
  /** Heap of one thread, in MiB. */
  heapMb?: number;
  /** Maximum time for reading one body, in milliseconds. */
  longestMs?: number;
}

const PATH = join(import.meta.dirname, `thread.${import.meta.filename.split('.').at(-1)}`);

const sizeOf = (source: Source) =>
  typeof source === 'string' ? source.length : source.reduce((sum, { byteLength }) => sum + byteLength, 0);

/** Returns a part that owns its memory, so that the memory can be transferred. */
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

/** Creates a reader. Threads are started when they are needed, and replaced when one has died. */
export function createReader(options: ReaderOptions): Reader {
  const { logger, inlineBytes = INLINE_BYTES, threads: most = THREADS, heapMb = HEAP_MB } = options;
  const { longestMs = LONGEST_MS } = options;
  const threads = new Set<Thread>();
  let queue: Waiting[] = [];
  let closed = false;

  function start(): Thread {
    // The thread needs neither the process's flags nor its environment, which contains secrets.
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
    // An idle thread must not keep the process alive.
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
      // Read requests of peers first: the peer is waiting for the acceptance and has already read the request once.
      if (kind === 'envelope') queue.unshift(waiting);
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

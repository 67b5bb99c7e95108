import { join } from 'node:path';
import { Worker } from 'node:worker_threads';
import { BridgeError } from '../errors.ts';
import { decodeText, holdsMoreThan } from '../json.ts';
import type { Log } from '../log.ts';
import { KnownBodies } from './again.ts';
import {
  type Answer,
  Arrival,
  type Flat,
  flatten,
  type Job,
  type Kind,
  opened,
  type Read,
  readSource,
  unflatten,
} from './read.ts';

/** A body as received: its bytes in order, or its text. */
export type Source = readonly Uint8Array[] | string;

/** A body that `Reader.receive` began to receive. */
export type Received = ReturnType<KnownBodies['receive']>;

interface Belonging {
  /** Conversation to which the body belongs: its last body is likely to be repeated by the next one. Null if unknown. */
  conversation?: string | null;
  /** Collect the names of objects at the provider. Default: true. */
  named?: boolean;
}

export interface ReadOptions extends Belonging {
  /** Ends the wait for the result when the client has disconnected. */
  gone?: AbortSignal;
}

/** Reads bodies: small ones synchronously, larger ones in worker threads. */
export interface Reader {
  /**
   * Returns the receiver of a body, which compares it with the conversation's last one while it arrives.
   *
   * @param bytes size of the body, in bytes; by default unknown
   */
  receive(belonging?: Belonging, bytes?: number): Received;
  /**
   * Reads one body.
   *
   * @param source transferred: the memory of its parts is moved to the reading thread
   * @param options those with which the body was received
   * @throws BridgeError if the body is refused, or if this reader is closed
   */
  read(source: Source | Received, kind: Kind, options?: ReadOptions): Promise<Read>;
  /** Stops the threads. Bodies that are waiting or being read are refused. */
  close(): Promise<void>;
}

/** A body with less bytes and no more values is read faster than it is handed to a thread, whatever its content. */
const INLINE_BYTES = 131_072;
const INLINE_VALUES = 4_096;

/** Size from which a body is remembered, in bytes: smaller ones are read again as quickly as they are compared. */
const REMEMBERED_BYTES = 8_192;

/** Characters of bodies that are remembered, over all conversations. */
const REMEMBERED_CHARS = 64 * 2 ** 20;

/** Maximum number of bodies read at the same time. More threads than cores would only slow each of them down. */
const THREADS = 2;

/** Heap of one thread, in MiB: a body of 32 MiB with the maximum number of values needs half of it. */
const HEAP_MB = 1_024;

/** Time after which a thread that is still reading one body is terminated, in milliseconds. */
const LONGEST_MS = 20_000;

interface Waiting {
  job: Job;
  answered(flat: Flat): void;
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

function sizeOf(source: Source | Received): number {
  if (source instanceof Arrival) return source.bytes;
  return typeof source === 'string' ? source.length : source.reduce((sum, { byteLength }) => sum + byteLength, 0);
}

/**
 * Returns the text of a body; null when it may not be valid UTF-8. A long one is decoded in slices, between which the event
 * loop runs.
 */
async function decoded(source: Source): Promise<string | null> {
  if (typeof source === 'string') return source;
  const bytes =
    source.length === 1
      ? Buffer.from(source[0]!.buffer, source[0]!.byteOffset, source[0]!.byteLength)
      : Buffer.concat(source);
  const text = await decodeText(bytes);
  return text.includes('\ufffd') ? null : text;
}

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
  const known = new KnownBodies(REMEMBERED_CHARS);
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
      if ('flat' in answer) waiting?.answered(answer.flat);
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

  function readElsewhere(source: Source, kind: Kind, named: boolean, gone?: AbortSignal): Promise<Flat> {
    const { promise, resolve, reject } = Promise.withResolvers<Flat>();
    const leave = () => {
      queue = queue.filter((each) => each !== waiting);
      reject(new BridgeError('bridge_turn_cancelled'));
    };
    const waiting: Waiting = {
      job: { parts: typeof source === 'string' ? source : source.map(ownMemory), kind, named },
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

  /** Reads a body on top of the conversation's last one; null if it must be read as a whole. */
  async function readAgain(
    source: Source | Received,
    conversation: string,
    kind: Kind,
    named: boolean,
  ): Promise<Flat | null> {
    if (source instanceof Arrival) return known.extended(source);
    const text = known.has(conversation) ? await decoded(source) : null;
    if (text === null) return null;
    const bytes = typeof source === 'string' ? Buffer.byteLength(source) : sizeOf(source);
    if (kind === 'body') return known.read(conversation, text, bytes, named);
    const [envelope, body] = opened(text);
    const flat = known.read(conversation, body, bytes, named);
    return flat && { ...flat, envelope };
  }

  return {
    receive: ({ conversation = null, named = true } = {}, bytes = Number.POSITIVE_INFINITY) =>
      bytes < REMEMBERED_BYTES ? new Arrival() : known.receive(conversation, named),
    async read(received, kind, { gone, conversation = null, named = true } = {}) {
      if (closed) throw new BridgeError('bridge_draining');
      const size = sizeOf(received);
      const lasting = size >= REMEMBERED_BYTES ? conversation : null;
      const again = lasting === null ? null : await readAgain(received, lasting, kind, named);
      if (lasting !== null && again !== null) {
        known.remember(lasting, again, named);
        return unflatten(again);
      }
      const source = received instanceof Arrival ? await received.whole() : received;
      const bytes = size < inlineBytes ? (typeof source === 'string' ? source : Buffer.concat(source)) : null;
      if (bytes === null || holdsMoreThan(String(bytes), INLINE_VALUES)) {
        const flat = await readElsewhere(source, kind, named, gone);
        if (lasting !== null) known.remember(lasting, flat, named);
        return unflatten(flat);
      }
      const read = readSource(bytes, kind, { whole: lasting !== null, named });
      if (lasting !== null) known.remember(lasting, flatten(read), named);
      return read;
    },
    async close() {
      closed = true;
      for (const { refused } of queue.splice(0)) refused(new BridgeError('bridge_draining'));
      await Promise.all([...threads].map(({ worker }) => worker.terminate()));
    },
  };
}

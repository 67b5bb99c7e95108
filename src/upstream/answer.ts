import type { UpstreamAnswer } from './port.ts';

/** Flattens headers to one string each, names in lower case. Repeated headers are joined as HTTP allows. */
export function flatHeaders(headers: Readonly<Record<string, string | string[] | undefined>>): Record<string, string> {
  // Without a prototype: a header may be named `constructor`.
  const flat: Record<string, string> = Object.create(null);
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) flat[name.toLowerCase()] = Array.isArray(value) ? value.join(', ') : value;
  }
  return flat;
}

/** Collects a body up to a limit. The excess is dropped, and the answer then has no `content-length`. */
export interface AnswerCollector {
  /** Adds a chunk. Returns false once the limit is reached; nothing more is kept then. */
  push(chunk: Buffer): boolean;
  /**
   * Returns the answer as collected so far.
   *
   * @param complete false when the body was cut
   */
  answer(complete: boolean): UpstreamAnswer;
}

/**
 * Creates a collector.
 *
 * @param maxBytes most bytes kept of the body
 */
export function collectAnswer(status: number, headers: Record<string, string>, maxBytes: number): AnswerCollector {
  const chunks: Buffer[] = [];
  let bytes = 0;
  let cut = false;
  return {
    push(chunk) {
      const room = maxBytes - bytes;
      if (chunk.length > room) cut = true;
      const kept = cut ? chunk.subarray(0, room) : chunk;
      if (kept.length > 0) chunks.push(kept);
      bytes += kept.length;
      return !cut;
    },
    answer(complete) {
      const kept = { ...headers };
      if (cut || !complete) delete kept['content-length'];
      return { status, headers: kept, body: Buffer.concat(chunks) };
    },
  };
}

/** Returns a short reason for a failed connection. Never contains a header or a body. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  if (!(error instanceof Error)) return 'unknown';
  const { code } = error as NodeJS.ErrnoException;
  return error.message || code || error.name;
}

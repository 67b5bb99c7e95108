import type { UpstreamAnswer } from './port.ts';

/** Headers as one string each, names in lower case; repeated ones are joined as HTTP allows. */
export function flatHeaders(headers: Readonly<Record<string, string | string[] | undefined>>): Record<string, string> {
  // Without a prototype: a header may be called `constructor`.
  const flat: Record<string, string> = Object.create(null);
  for (const [name, value] of Object.entries(headers)) {
    if (value !== undefined) flat[name.toLowerCase()] = Array.isArray(value) ? value.join(', ') : value;
  }
  return flat;
}

/** Collects a body up to a limit. What is cut off is gone, and the answer no longer claims its length. */
export interface AnswerCollector {
  /** False once the limit is reached: nothing more is kept. */
  push(chunk: Buffer): boolean;
  answer(complete: boolean): UpstreamAnswer;
}

/** @param maxBytes most that is kept of the body */
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

/** Short reason for a connection that failed; never holds a header or a body. */
export function reasonOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) return reasonOf(error.errors[0]);
  if (!(error instanceof Error)) return 'unknown';
  const { code } = error as NodeJS.ErrnoException;
  return error.message || code || error.name;
}

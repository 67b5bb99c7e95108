import { type Output, printable } from '../output.ts';

/**
 * - `ok`: checked, nothing to do.
 * - `note`: nothing is wrong, but it may surprise.
 * - `warning`: it works, but not as well or as safely as it should.
 * - `fault`: it does not work, or is not safe.
 */
export type Level = 'ok' | 'note' | 'warning' | 'fault';

/** Result of one check. */
export interface Finding {
  /** Name of the check. Names are API. */
  check: string;
  level: Level;
  /** What was found, as a sentence without its full stop. */
  says: string;
  /** What to do; null for `ok`. */
  mend: string | null;
}

/** What the checks find the machine by; tests replace parts. */
export interface Machine {
  /** Wall clock, in milliseconds. */
  wall(): number;
  /**
   * Returns the free space of the file system that holds a path.
   *
   * @returns bytes that this user may still write; null when not known
   */
  freeBytes(path: string): Promise<number | null>;
}

export const ok = (check: string, says: string): Finding => ({ check, level: 'ok', says, mend: null });
export const note = (check: string, says: string, mend: string): Finding => ({ check, level: 'note', says, mend });
export const warning = (check: string, says: string, mend: string): Finding => ({
  check,
  level: 'warning',
  says,
  mend,
});
export const fault = (check: string, says: string, mend: string): Finding => ({ check, level: 'fault', says, mend });

const marks = { ok: 'ok', note: 'note', warning: 'WARNING', fault: 'FAULT' } as const;

/** Prints findings for people, one a line, each with what to do about it. */
export function printFindings(findings: readonly Finding[], { out }: Output): void {
  for (const { check, level, says, mend } of findings) {
    out(`${marks[level].padEnd(8)}${check.padEnd(16)}${printable(says)}.\n`);
    if (mend !== null) out(`${' '.repeat(24)}To mend it: ${printable(mend)}.\n`);
  }
}

/** Splits a message that ends in its remedy, `what is wrong: what to do`, at its last colon. */
export function fromMessage(check: string, message: string, otherwise: string): Finding {
  const text = message.replace(/\.$/, '');
  const at = text.lastIndexOf(': ');
  const remedy = at < 0 ? '' : text.slice(at + 2);
  return /^(?:set|check|choose|name|keep|did you mean|stop|create|run|take|is the server|as an administrator)\b/i.test(
    remedy,
  )
    ? fault(check, text.slice(0, at), remedy.replace(/^did you mean (.*)\?$/, 'rename it to $1, or remove it'))
    : fault(check, text, otherwise);
}

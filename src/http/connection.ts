import type { ServerResponse } from 'node:http';
import { guarded } from '../faults.ts';

/** State of the client connection, as both kinds of sink need it. */
export interface Connection {
  readonly open: boolean;
  onGone(listener: () => void): void;
  onDelivered(listener: () => void): void;
}

/**
 * Watches one response. The result is `delivered` when `finish` comes before `close`, and `gone` otherwise. Exactly one
 * of the two happens, once; a listener added later is called immediately.
 */
export function watchConnection(res: ServerResponse): Connection {
  let end: 'delivered' | 'gone' | null = null;
  const listeners = { delivered: [] as (() => void)[], gone: [] as (() => void)[] };
  const settle = (how: 'delivered' | 'gone') => {
    if (end) return;
    end = how;
    for (const listener of listeners[how]) guarded('client connection', listener)();
  };
  res.once('finish', () => settle('delivered'));
  res.once('close', () => settle('gone'));
  const on = (how: 'delivered' | 'gone') => (listener: () => void) => {
    if (end === how) listener();
    else listeners[how].push(listener);
  };
  return {
    get open() {
      return end === null && !res.destroyed;
    },
    onGone: on('gone'),
    onDelivered: on('delivered'),
  };
}

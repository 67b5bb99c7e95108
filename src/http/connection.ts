import type { ServerResponse } from 'node:http';
import { guarded } from '../faults.ts';

/** What both kinds of sink need to know of their connection. */
export interface Connection {
  readonly open: boolean;
  onGone(listener: () => void): void;
  onDelivered(listener: () => void): void;
}

/**
 * Watches one response: delivered when `finish` came before `close`, gone when it did not. Exactly one of the two
 * happens, once; a listener added afterwards is told at once.
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

import { expect, it } from 'vitest';
import { actor, at, decide, key, mine, sessionRow, streaming, t1, t2, toOlder, turnRow } from './support.ts';

it('The row of an anchor has no effect on a request without an anchor', () => {
  expect(decide({}, { anchor: at(t2, sessionRow()) })).toMatchObject({ row: 'created', parent: null });
});

it('The mark "anchor lost" applies to the head only: an older turn of the session can still be an anchor', () => {
  const stored = { ...t1, storedUpstream: true };
  const world = { anchor: at(stored, sessionRow({ anchorLost: true })) };
  expect(decide(toOlder, world)).not.toMatchObject({ do: 'refuse' });
  const head = turnRow('t1', { storedUpstream: true });
  const lost = { anchor: at(head, sessionRow({ anchorLost: true, headTurnId: 't1' })) };
  expect(decide(toOlder, lost)).toMatchObject({ do: 'refuse', code: 'bridge_session_expired' });
});

it('A busy session without an owner can be claimed', () => {
  const world = { keyed: sessionRow({ activeTurnId: 't3' }) };
  expect(decide({ hardKey: key }, world)).toMatchObject({ row: 'stale_recovery', do: 'claim' });
});

it('A full queue does not let a request run beside a turn on the wire that has lost its reader', () => {
  const world = { keyed: sessionRow(mine), local: [streaming({ clientAttached: false, queueFull: true })] };
  expect(decide({ hardKey: key }, world)).toMatchObject({ row: 'superseded', do: 'supersede' });
  const waiting = { ...world, local: [actor({ state: 'connecting', busy: true, queueFull: true })] };
  expect(decide({ hardKey: key }, waiting)).toMatchObject({ row: 'queue_full', outcome: 'parallel_lane' });
});

it('A repeat without its key never takes over a stream that a client reads, whatever its turn id', () => {
  const running = streaming({ activeRequestFp: 'fp_new', activeParentTurnId: null, activeClientTurnId: 'turn' });
  const asked = { clientTurnId: 'turn' };
  expect(decide(asked, { repeated: running }).row).not.toBe('repeat_unread');
  expect(decide(asked, { repeated: { ...running, clientAttached: false } })).toMatchObject({ row: 'repeat_unread' });
});

import { describe, expect, it } from 'vitest';
import { Forwarding, type Peers } from '../../src/session/forwarding.ts';
import { LastOwners } from '../../src/session/last-owners.ts';
import type { Turn } from '../../src/session/turn.ts';
import { createManualClock } from '../../src/testing/index.ts';

const clock = createManualClock();
const env = { clock, config: { deadlines: { ownerWait: 1_000 } } } as unknown as ConstructorParameters<
  typeof Forwarding
>[0];
const decision = {
  do: 'await_owner',
  outcome: 'stale_recovery',
  session: { id: 's1' },
  workerId: 'silent',
  retryAfterSeconds: 7,
} as Parameters<Forwarding['awaitOwner']>[1];

/** Waits once for a silent owner whose liveness is given. */
function awaiting(liveness: 'dead' | 'alive', attempts: object[] = []) {
  const placement = { attempts, awaitedSince: null, heldUntil: clock.now() + 60_000 };
  const turn = { placement, outcome: null } as unknown as Turn;
  const forwarding = new Forwarding(
    env,
    { liveness: async () => liveness } as unknown as Peers,
    new LastOwners(),
    () => {},
  );
  return { turn, once: () => forwarding.awaitOwner(turn, decision) };
}

describe('the wait for a silent owner', () => {
  it('What was learned about this owner is dropped, and about others kept', async () => {
    const kept = [
      { kind: 'unreachable', workerId: 'other' },
      { kind: 'not_owner', sessionId: 's2' },
      { kind: 'busy', sessionId: 's2' },
      { kind: 'conflict' },
    ];
    const dropped = [
      { kind: 'unreachable', workerId: 'silent' },
      { kind: 'not_owner', sessionId: 's1' },
      { kind: 'busy', sessionId: 's1' },
    ];
    const { turn, once } = awaiting('alive', [...dropped, ...kept]);
    expect(await once()).toBe('again');
    expect(turn.placement.attempts).toEqual(kept);
  });

  it('It ends with an error after its time, counted from its beginning, unless the owner is dead by then', async () => {
    const [alive, dead] = [awaiting('alive'), awaiting('dead')];
    for (const each of [alive, dead]) expect(await each.once()).toBe('again');
    clock.advance(999);
    for (const each of [alive, dead]) expect(await each.once()).toBe('again');
    clock.advance(1);
    expect(await dead.once()).toBe('again');
    await expect(alive.once()).rejects.toMatchObject({ code: 'bridge_wrong_instance', retryAfterSeconds: 7 });
    expect(alive.turn.outcome).toBe('wrong_instance');
  });
});

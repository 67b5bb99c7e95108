import { describe, expect, it } from 'vitest';
import { type Standing, whyAndExit } from '../../src/admin/views.ts';

const states = ['connecting', 'live', 'reconnecting', 'stale', 'closed'] as const;
const owners: Standing['owner'][] = [
  null,
  { state: 'serving', leaseLeftMs: 5_000 },
  { state: 'draining', leaseLeftMs: 5_000 },
  { state: 'serving', leaseLeftMs: -1 },
  { state: 'dead', leaseLeftMs: -1 },
];

describe('whyAndExit', () => {
  it('Every combination of session, owner and actor state has a reason and a way out', () => {
    const seen = new Set<string>();
    for (const state of states)
      for (const owner of owners)
        for (const activeTurnId of [null, 't'])
          for (const headTurnId of [null, 'h'])
            for (const headContinuable of [null, true, false])
              for (const anchorLost of [true, false])
                for (const actor of [
                  null,
                  'live.idle',
                  'live.committing.starting',
                  'reconnecting.waiting.dialing',
                  'reconnecting.resending.dialing',
                  'live.settling.asking',
                ]) {
                  const session = { state, ownerWorkerId: owner ? 'w' : null, activeTurnId, headTurnId, anchorLost };
                  const { why, exit } = whyAndExit({ session, owner, headContinuable, actor });
                  expect(why).toMatch(/^[A-Z].+\.$/);
                  expect(exit).toMatch(/^[A-Z].+\.$/);
                  seen.add(why);
                }
    expect(seen.size).toBeGreaterThan(10);
  });
});

it('A busy session of a dead worker is reported as taken over at once', () => {
  const session = {
    state: 'live',
    ownerWorkerId: 'w',
    activeTurnId: 't',
    headTurnId: null,
    anchorLost: false,
  } as const;
  const owner = { state: 'dead', leaseLeftMs: -1 } as const;
  expect(whyAndExit({ session, owner, headContinuable: null, actor: null }).exit).toContain('at once');
});

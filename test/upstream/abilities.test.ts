import { expect, it } from 'vitest';
import { createManualClock } from '../../src/testing/index.ts';
import { createAbilities } from '../../src/upstream/abilities.ts';

const MINUTE = 60_000;
const mine = { targetId: 't', credentialFp: 'mine' };
const others = { targetId: 't', credentialFp: 'others' };

function start(fallsBack = true) {
  const clock = createManualClock();
  return { clock, abilities: createAbilities(fallsBack, clock) };
}

it('A failed upgrade counts for the credential that had it, and for no other', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'certain');
  abilities.confirm(mine);
  expect([abilities.withoutWebSocket(mine), abilities.withoutWebSocket(others)]).toEqual([true, false]);
});

it('With transport websocket there is no fallback', () => {
  const { abilities } = start(false);
  abilities.suspect(mine, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('An explicit refusal of WebSocket by the upstream is remembered for ten minutes, however often HTTP succeeds', () => {
  const { abilities, clock } = start();
  abilities.suspect(mine, 'certain');
  for (let n = 0; n < 19; n += 1) {
    abilities.confirm(mine);
    clock.advance(MINUTE / 2);
    expect(abilities.withoutWebSocket(mine)).toBe(true);
  }
  abilities.confirm(mine);
  clock.advance(MINUTE);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('A possibly temporary failure is remembered for a minute, and longer with each repetition', () => {
  const { abilities, clock } = start();
  const lasts = () => {
    abilities.suspect(mine, 'doubtful');
    abilities.confirm(mine);
    let minutes = 0;
    for (; abilities.withoutWebSocket(mine); minutes += 1) clock.advance(MINUTE);
    return minutes;
  };
  expect([lasts(), lasts(), lasts(), lasts(), lasts(), lasts()]).toEqual([1, 2, 4, 8, 10, 10]);
});

it('A failed handshake after WebSocket has worked is remembered only as the third in a row, for a short time', () => {
  const { abilities, clock } = start();
  const failsOver = () => {
    abilities.suspect(mine, 'doubtful');
    abilities.confirm(mine);
    return abilities.withoutWebSocket(mine);
  };
  abilities.works(mine);
  expect(failsOver()).toBe(false);
  abilities.works(mine);
  expect([failsOver(), failsOver(), failsOver()]).toEqual([false, false, true]);
  clock.advance(MINUTE / 4);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('Nothing is remembered about WebSocket when HTTP fails too', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'doubtful');
  abilities.acquit(mine);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
  abilities.suspect(mine, 'doubtful');
  abilities.confirm(mine);
  abilities.acquit(mine);
  expect(abilities.withoutWebSocket(mine)).toBe(true);
});

it('An unconfirmed suspicion expires soon', () => {
  const { abilities, clock } = start();
  abilities.suspect(mine, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(true);
  clock.advance(MINUTE / 2);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('A silent drop counts at once, other drops from the second in a row, and after WebSocket has worked only the third', () => {
  const { abilities } = start();
  abilities.dropped(mine, false);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
  abilities.dropped(mine, false);
  expect(abilities.withoutWebSocket(mine)).toBe(true);
  abilities.dropped(others, true);
  expect(abilities.withoutWebSocket(others)).toBe(true);
  abilities.works(mine);
  for (const suspect of [false, false, true]) {
    abilities.dropped(mine, true);
    expect(abilities.withoutWebSocket(mine)).toBe(suspect);
  }
});

it('The smallest frame that was too large is remembered per target for an hour', () => {
  const { abilities, clock } = start();
  abilities.tooLarge('t', 500);
  abilities.tooLarge('t', 400);
  abilities.tooLarge('t', 600);
  expect([399, 400].map((bytes) => abilities.isTooLarge('t', bytes))).toEqual([false, true]);
  expect(abilities.isTooLarge('u', 1_000)).toBe(false);
  clock.advance(60 * MINUTE);
  expect(abilities.isTooLarge('t', 1_000)).toBe(false);
});

it('An upstream that refuses anchors is tried again after an hour', () => {
  const { abilities, clock } = start();
  abilities.refusesAnchors(mine);
  expect([abilities.takesAnchors(mine), abilities.takesAnchors(others)]).toEqual([false, true]);
  clock.advance(60 * MINUTE);
  expect(abilities.takesAnchors(mine)).toBe(true);
});

it('Invented credentials of clients use a bounded amount of memory', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'certain');
  for (let n = 0; n < 5_000; n += 1) abilities.suspect({ targetId: 't', credentialFp: `c${n}` }, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(false);
  expect(abilities.withoutWebSocket({ targetId: 't', credentialFp: 'c4999' })).toBe(true);
});

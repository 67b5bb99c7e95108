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

it('a failure counts for the credential that met it, and for no other', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'certain');
  abilities.confirm(mine);
  expect([abilities.withoutWebSocket(mine), abilities.withoutWebSocket(others)]).toEqual([true, false]);
});

it('with transport websocket nothing is worked around', () => {
  const { abilities } = start(false);
  abilities.suspect(mine, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('what the upstream said itself is believed for ten minutes, however often HTTP answers meanwhile', () => {
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

it('a failure that may pass is believed for a minute, and longer each time it happens again', () => {
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

it('where WebSocket works a failed handshake says nothing, and the third in a row does, for a short time', () => {
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

it('nothing is learned about WebSocket when HTTP fails as well', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'doubtful');
  abilities.acquit(mine);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
  abilities.suspect(mine, 'doubtful');
  abilities.confirm(mine);
  abilities.acquit(mine);
  expect(abilities.withoutWebSocket(mine)).toBe(true);
});

it('a suspicion that nothing confirmed is soon over', () => {
  const { abilities, clock } = start();
  abilities.suspect(mine, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(true);
  clock.advance(MINUTE / 2);
  expect(abilities.withoutWebSocket(mine)).toBe(false);
});

it('a mute drop is suspect where WebSocket never worked; any drop is the second time in a row, and the third where it has worked', () => {
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

it('the smallest frame that was too large counts, for the target and for an hour', () => {
  const { abilities, clock } = start();
  abilities.tooLarge('t', 500);
  abilities.tooLarge('t', 400);
  abilities.tooLarge('t', 600);
  expect([399, 400].map((bytes) => abilities.isTooLarge('t', bytes))).toEqual([false, true]);
  expect(abilities.isTooLarge('u', 1_000)).toBe(false);
  clock.advance(60 * MINUTE);
  expect(abilities.isTooLarge('t', 1_000)).toBe(false);
});

it('an upstream that takes no anchors is asked again after an hour', () => {
  const { abilities, clock } = start();
  abilities.refusesAnchors(mine);
  expect([abilities.takesAnchors(mine), abilities.takesAnchors(others)]).toEqual([false, true]);
  clock.advance(60 * MINUTE);
  expect(abilities.takesAnchors(mine)).toBe(true);
});

it('credentials that clients make up cost a bounded memory', () => {
  const { abilities } = start();
  abilities.suspect(mine, 'certain');
  for (let n = 0; n < 5_000; n += 1) abilities.suspect({ targetId: 't', credentialFp: `c${n}` }, 'certain');
  expect(abilities.withoutWebSocket(mine)).toBe(false);
  expect(abilities.withoutWebSocket({ targetId: 't', credentialFp: 'c4999' })).toBe(true);
});

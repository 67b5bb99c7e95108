import { afterAll, beforeAll, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import type { ResponseObject } from '../support/client.ts';
import { openLive } from '../support/live-client.ts';
import { user } from '../support/messages.ts';

let at: TestBridge;
beforeAll(async () => {
  at = await startTestBridge({ simulator: { deltaCount: 50 } });
});
afterAll(() => at?.close());

const writes = /^holdfast_(create|start|settle|claim|release|close)$/;

it('A completed turn costs two commits, and no statement of any kind between its frames', async () => {
  const headers = { 'thread-id': crypto.randomUUID() };
  const history: object[] = [];
  const commits: string[][] = [];
  for (let turn = 0; turn < 4; turn += 1) {
    at.statements.length = 0;
    const held = at.simulator.script.onTurn({}, { kind: 'hold', at: 'before_terminal' });
    history.push(user(`turn ${turn}`));
    const client = await openLive(at.url, { model: 'm', store: false, input: history }, headers);
    await client.until('response.output_item.added');
    const beforeDeltas = at.statements.filter((name) => name !== 'holdfast_heartbeat');
    await client.until('response.output_item.done');
    expect(at.statements.filter((name) => name !== 'holdfast_heartbeat')).toEqual(beforeDeltas);
    held.release();
    const { events } = await client.rest();
    history.push(...(events.at(-1)!.data.response as ResponseObject).output);
    commits.push(at.statements.filter((name) => writes.test(name)));
    // On a warm socket the fenced start is the only statement before the frame leaves.
    if (turn > 0) expect(at.statements.filter((name) => name !== 'holdfast_heartbeat')).toEqual(commits.at(-1));
  }
  expect(commits).toEqual([
    ['holdfast_create', 'holdfast_settle'],
    ['holdfast_start', 'holdfast_settle'],
    ['holdfast_start', 'holdfast_settle'],
    ['holdfast_start', 'holdfast_settle'],
  ]);
});

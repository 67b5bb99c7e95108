import { type ChildProcess, spawn } from 'node:child_process';

import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fakeClient, forDead, patience, patient, startSender, TURN, turnRequest } from './support.ts';

let child: ChildProcess;
let url: string;
let said: string[];
let heard: () => void;

/** Resolves when the owner has printed that line. */
async function line(text: string): Promise<void> {
  while (!said.includes(text)) await new Promise<void>((done) => (heard = done));
}

beforeEach(async () => {
  said = [];
  heard = () => {};
  child = spawn(process.execPath, [fileURLToPath(new URL('./owner-process.ts', import.meta.url))], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  createInterface({ input: child.stdout! }).on('line', (text) => {
    said.push(text);
    heard();
  });
  while (said.length === 0) await new Promise<void>((done) => (heard = done));
  url = said[0]!;
});
afterEach(async () => {
  const ended = child.exitCode !== null || child.signalCode !== null;
  const gone = ended ? null : new Promise((done) => child.once('exit', done));
  child.kill('SIGKILL');
  await gone;
});

const peer = () => ({ workerId: 'worker-a', url });
const turn = (turnId: string) => ({ ...TURN, turnId });

describe('an owner in a separate process', () => {
  it('An owner that is killed breaks its hops at once', async () => {
    const sender = startSender({ forwardSilence: 600_000 });
    const client = fakeClient();
    const result = sender.forwarder.forward(peer(), turn('t1'), turnRequest(), client, patient());
    await client.called(1);
    child.kill('SIGKILL');
    expect(await result).toEqual({ kind: 'broken', again: true });
    await sender.close();
  });

  it('An owner stopped before accepting is abandoned once its death is known, and when resumed does not begin for a sender that left', async () => {
    const sender = startSender({ forwardAccepted: 100 });
    child.kill('SIGSTOP');
    const stopped = await sender.forwarder.forward(peer(), turn('t1'), turnRequest(), fakeClient(), forDead());
    expect(stopped).toEqual({ kind: 'unreachable', sent: true, again: false });
    child.kill('SIGCONT');
    await line('a sender had left before its request was accepted');
    await sender.close();

    const later = startSender();
    const client = fakeClient();
    const result = later.forwarder.forward(peer(), turn('t2'), turnRequest(), client, patient());
    await client.called(1);
    client.leave();
    expect(await result).toEqual({ kind: 'client_gone' });
    await line('gone t2');
    expect(said.slice(1)).toEqual(['a sender had left before its request was accepted', 'served t2', 'gone t2']);
    await later.close();
  });

  it('An owner stopped during an answer is waited for, and abandoned once its death is known', async () => {
    const sender = startSender({ forwardSilence: 1_000 });
    const client = fakeClient();
    const result = sender.forwarder.forward(peer(), turn('t1'), turnRequest(), client, {
      patience: patience('slow', 'slow', 'dead'),
    });
    await client.called(1);
    child.kill('SIGSTOP');
    expect(await result).toEqual({ kind: 'broken', again: false });
    child.kill('SIGCONT');
    await line('gone t1');
    await sender.close();
  });
});

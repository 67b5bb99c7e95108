import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { request } from 'undici';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { connect, type Frame, hangUp } from './client.ts';

const MAIN = new URL('../../src/testing/simulator/main.ts', import.meta.url).pathname;

describe('the simulator as a process', () => {
  let child: ChildProcess;
  let url: string;
  let exited: Promise<unknown[]>;

  beforeEach(async () => {
    child = spawn(process.execPath, [MAIN, '--seed', '4', '--turn-state', 'metadata', '--exit-with-stdin'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    exited = once(child, 'exit');
    [url] = (await once(createInterface(child.stdout!), 'line')) as [string];
  });
  afterEach(async () => {
    child.kill('SIGKILL');
    await exited;
  });

  async function control(method: string, path: string, body?: unknown): Promise<Frame> {
    const res = await request(new URL(path, url), {
      method: method as 'GET',
      headers: { connection: 'close' },
      body: body === undefined ? null : JSON.stringify(body),
    });
    return (await res.body.json()) as Frame;
  }

  it('The simulator process is scripted and read over HTTP', async () => {
    const hold = { on: 'turn', match: { input: 'slow' }, fault: { kind: 'hold', at: 'after_created' } };
    const fail = { on: 'turn', fault: { kind: 'error', error: { status: 500, message: 'scripted' } } };
    const { rules } = await control('POST', '/__script', [hold, fail]);
    const client = await connect(url);
    expect((await client.turn({ input: 'x' })).last.error.message).toBe('scripted');

    const held = control('GET', '/__journal?kind=held&wait=5000');
    client.send({ input: 'slow' });
    expect((await held).entries).toMatchObject([{ kind: 'held', rule: rules[0] }]);
    await control('POST', '/__control', { release: rules[0] });
    expect((await client.read()).types).toContain('response.metadata');

    const { entries } = await control('GET', '/__journal?kind=create');
    expect(entries.map(({ body }: Frame) => body.input)).toEqual(['x', 'slow']);
    expect((await control('GET', `/__journal?kind=create&since=${entries[0].seq}`)).entries).toHaveLength(1);
    expect(await control('GET', '/__state')).toMatchObject({ url, seed: 4, connections: [{ id: 1, open: true }] });

    await control('POST', '/__control', { drop: 1012, expireCaches: true, forgetStored: true, chaos: null });
    expect((await client.closed).code).toBe(1012);
    await control('DELETE', '/__journal');
    await control('DELETE', '/__script');
    expect((await control('GET', '/__nothing')).error.message).toContain('No such control');
  });

  it('The simulator process exits on SIGTERM and at the end of its stdin, with or without connections', async () => {
    const client = await connect(url);
    child.kill('SIGTERM');
    expect(await exited).toEqual([0, null]);
    await client.closed;
    await hangUp(client);

    const second = spawn(process.execPath, [MAIN, '--websocket-status', '404', '--exit-with-stdin'], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    const ended = once(second, 'exit');
    const [address] = (await once(createInterface(second.stdout!), 'line')) as [string];
    await expect(connect(address)).rejects.toThrow('refused 404');
    second.stdin!.end();
    expect(await ended).toEqual([0, null]);
  });
});

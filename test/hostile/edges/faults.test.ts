import { EventEmitter } from 'node:events';
import { request } from 'node:http';
import { expect, it, vi } from 'vitest';
import { listen } from '../../../src/http/server.ts';
import { guarded, onFault, reportFault, systemClock } from '../../../src/system.ts';
import { createUpstreamTransport } from '../../../src/upstream/transport.ts';
import { dialTo, startProvider } from '../../upstream/servers.ts';
import { raw } from './raw.ts';

/** Collects the faults that are reported while it is used. */
function watched() {
  const seen: { message: string; source: string; suppressed: number }[] = [];
  const waiting: (() => void)[] = [];
  const stop = onFault((error, source, suppressed) => {
    seen.push({ message: (error as Error).message, source, suppressed });
    for (const wake of waiting.splice(0)) wake();
  });
  return {
    seen,
    next: () => new Promise<void>((wake) => waiting.push(wake)),
    [Symbol.dispose]: stop,
  };
}
const fail = (message: string) => () => {
  throw new Error(message);
};

it('A listener that throws fails its own subject, once, and the emitter continues', () => {
  using faults = watched();
  const emitter = new EventEmitter();
  const ended = vi.fn(fail('ending failed too'));
  emitter.on('x', guarded('client connection', fail('listener'), ended));
  emitter.emit('x');
  expect(ended).toHaveBeenCalledOnce();
  expect(faults.seen.map(({ message }) => message)).toEqual(['listener', 'ending failed too']);
});

it('A repeated fault does not flood the log', () => {
  using faults = watched();
  for (let count = 0; count < 1_000; count += 1) reportFault(new Error('again'), 'supervisor');
  expect(faults.seen).toHaveLength(5);
});

it('A timer that throws does not end the process', async () => {
  using faults = watched();
  systemClock.after(1, fail('timer'));
  const keep = setInterval(() => {}, 1_000);
  await faults.next();
  clearInterval(keep);
  expect(faults.seen).toMatchObject([{ message: 'timer', source: 'timer' }]);
});

it('A frame reader that throws loses its own connection and no other', async () => {
  using faults = watched();
  const provider = await startProvider({
    websocket: (socket) => void socket.on('message', () => socket.send('{"type":"x"}')),
  });
  const transport = createUpstreamTransport();
  const dial = async () => {
    const result = await transport.dial(dialTo(provider.url));
    if (result.kind !== 'open') throw new Error('not open');
    return result.connection;
  };
  const [bad, good] = [await dial(), await dial()];
  const lost = new Promise((closed) => bad.attach({ frame: fail('reader'), closed }));
  const frame = new Promise((got) => good.attach({ frame: got, closed: () => {} }));
  bad.send('{}');
  await lost;
  good.send('{}');
  expect(await frame).toBe('{"type":"x"}');
  expect(faults.seen).toMatchObject([{ message: 'reader', source: 'upstream reader' }]);
  await transport.shutdown();
  await provider.close();
});

it('A server that cannot accept, and an app or upgrade handler that throws, do not end the process', async () => {
  using faults = watched();
  const server = await listen(fail('app'), { host: '127.0.0.1', port: 0 }, fail('upgrade'));
  server.server.emit('error', new Error('EMFILE'));
  await expect(fetch(server.url)).rejects.toThrow();
  const headers = { connection: 'upgrade', upgrade: 'websocket' };
  await new Promise((over) => request(server.url, { headers }).on('error', over).end());
  expect(faults.seen.map(({ source }) => source)).toEqual(['listener', 'client connection', 'upgrade']);
  await server.close(0);
});

it('A slow sender gets 408 in the error envelope', async () => {
  const options = { headersTimeout: 50, requestTimeout: 100, connectionsCheckingInterval: 20 };
  const server = await listen(() => {}, { host: '127.0.0.1', port: 0 }, undefined, options);
  const { over } = raw(server.url, 'GET / HTTP/1.1\r\nHost: ');
  expect(await over).toMatch(/^HTTP\/1\.1 408 [\s\S]*bridge_request_timeout/);
  await server.close(0);
});

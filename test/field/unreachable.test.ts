import { type AddressInfo, createServer } from 'node:net';
import { pino } from 'pino';
import { afterEach, expect, it } from 'vitest';
import { startTestBridge, type TestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';
import { freePort } from '../support/worker-process.ts';

let at: TestBridge;
afterEach(() => at.close());

const start = async (url: string, env: Record<string, string> = {}) => {
  const lines: Record<string, unknown>[] = [];
  at = await startTestBridge({
    logger: pino({ level: 'info' }, { write: (line) => void lines.push(JSON.parse(line)) }),
    env: { HOLDFAST_UPSTREAM_URL: url, HOLDFAST_CONNECT_MS: '60000', ...env },
  });
  return lines;
};

it.each(['auto', 'websocket', 'http'])(
  'A refused connection is answered at once with its cause: %s',
  async (transport) => {
    const port = await freePort();
    // Far below the connect deadline, for which this test would have to wait otherwise.
    const lines = await start(`http://127.0.0.1:${port}/secret?key=secret`, { HOLDFAST_UPSTREAM_TRANSPORT: transport });
    const answer = await post(at.url, { model: 'm', stream: true, input: 'one' });
    expect(answer.status).toBe(502);
    expect(answer.body.error).toMatchObject({
      bridge_code: 'bridge_upstream_unreachable',
      message: `The upstream could not be reached. ECONNREFUSED at 127.0.0.1:${port}.`,
    });
    const line = lines.find(({ msg }) => msg === 'turn');
    expect(line).toMatchObject({ fault: 'bridge_upstream_unreachable', cause: `ECONNREFUSED at 127.0.0.1:${port}` });
    expect(JSON.stringify(lines)).not.toContain('secret');
  },
);

it('An API call other than a turn also gets the cause of its failed connection', async () => {
  const port = await freePort();
  await start(`http://127.0.0.1:${port}/v1`);
  const answer = await fetch(`${at.url}/v1/models`, { headers: { authorization: 'Bearer sk-test' } });
  expect(answer.status).toBe(502);
  expect(await answer.text()).toContain(`ECONNREFUSED at 127.0.0.1:${port}`);
});

it('An unknown host is named in the error', async () => {
  await start('https://no-such-host.invalid/v1', { HOLDFAST_CONNECT_MS: '2000' });
  const answer = await post(at.url, { model: 'm', stream: true, input: 'one' });
  expect(answer.body.error?.message).toMatch(/ at no-such-host\.invalid\.$/);
});

it.each(['auto', 'websocket', 'http'])('A server that never answers is named in the error: %s', async (transport) => {
  const mute = createServer((socket) => void socket.on('error', () => {}));
  await new Promise<void>((resolve) => mute.listen(0, '127.0.0.1', resolve));
  const { port } = mute.address() as AddressInfo;
  const tls = `https://127.0.0.1:${port}/v1`;
  await start(tls, { HOLDFAST_UPSTREAM_TRANSPORT: transport, HOLDFAST_CONNECT_MS: '600' });
  const answer = await post(at.url, { model: 'm', stream: true, input: 'one' });
  mute.close();
  expect(answer.body.error?.message).toMatch(new RegExp(` at 127\\.0\\.0\\.1:${port}\\.$`));
});

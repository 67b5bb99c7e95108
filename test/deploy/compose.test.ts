import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { readConfig } from '../../src/config.ts';
import { longestShutdown } from '../../src/worker.ts';
import { connectSocket } from '../support/websocket.ts';
import { type ComposeService, readCompose, secrets } from './compose.ts';
import { say, startTopology, turn } from './topology.ts';

const services = await readCompose(secrets);
const workers = Object.entries(services).filter(([name]) => name.startsWith('worker-'));

it('Three workers differ only in the address that they announce', () => {
  expect(workers).toHaveLength(3);
  const same = workers.map(([, { environment }]) => ({ ...environment, HOLDFAST_ADVERTISE_URL: '' }));
  for (const each of same) expect(each).toEqual(same[0]);
  for (const [name, { environment }] of workers) {
    expect(environment!.HOLDFAST_ADVERTISE_URL).toBe(`http://${name}:${environment!.HOLDFAST_INTERNAL_PORT}`);
  }
});

it('The settings of every worker are valid, and its drain fits into the time that Docker grants', () => {
  for (const [, service] of workers) {
    const { deadlines } = readConfig(service.environment!);
    const grace = Number(/^(\d+)s$/.exec(service.stop_grace_period!)![1]) * 1_000;
    expect(grace).toBeGreaterThanOrEqual(longestShutdown(deadlines));
    expect(service).toMatchObject({ read_only: true, user: '65532:65532' } satisfies ComposeService);
  }
});

it('A missing secret stops the start', async () => {
  for (const name of Object.keys(secrets)) {
    await expect(readCompose({ ...secrets, [name]: '' })).rejects.toThrow(`${name} is not set`);
  }
});

it('The script that starts it makes every secret', async () => {
  const script = await readFile('deploy/compose/up', 'utf8');
  const written = [...script.matchAll(/^([A-Z_]+)=/gm)].map(([, name]) => name);
  expect(written.sort()).toEqual(Object.keys(secrets).sort());
});

it('The balancer reaches every worker, and publishes a port on loopback', async () => {
  const conf = await readFile('deploy/compose/nginx.conf', 'utf8');
  const servers = [...conf.matchAll(/^ *server (\S+) /gm)].map(([, server]) => server).filter((each) => each !== '{');
  expect(servers).toEqual(workers.map(([name, { environment }]) => `${name}:${environment!.PORT}`));
  expect(services.balancer!.ports).toEqual(['127.0.0.1:8787:8080']);
  expect(Object.keys(services.balancer!.depends_on!)).toEqual(workers.map(([name]) => name));
});

it('No balancer repeats a request that a worker may have begun, or counts an answer as a failure of the worker; each lets WebSockets pass', async () => {
  for (const file of ['deploy/compose/nginx.conf', 'deploy/several-hosts/nginx.conf']) {
    const conf = await readFile(file, 'utf8');
    expect(
      [...conf.matchAll(/^ *proxy_next_upstream (.*);$/gm)].map(([, when]) => when),
      file,
    ).toEqual(['error timeout']);
    expect(conf, file).toMatch(/^ *proxy_request_buffering off;$/m);
    expect(conf, file).toMatch(/^ *proxy_set_header Upgrade \$http_upgrade;$/m);
  }
});

it.skipIf(process.platform !== 'linux')(
  'The declared topology starts without Docker, and a conversation goes on while one of its workers is drained',
  { timeout: 180_000 },
  async () => {
    const topology = await startTopology();
    try {
      const [first] = topology.workers;
      expect(await first!.check()).toBe(0);
      const conversation = crypto.randomUUID();
      const history: unknown[] = [];
      const ask = async (text: string) => {
        history.push(say(text));
        let answer = await turn(topology, conversation, history);
        // Clients repeat both: 503 of a worker that has just stopped taking requests, and 502 of the balancer, which had begun to
        // send the request on a connection that the worker was closing. The balancer then asks another worker.
        for (let tries = 1; [502, 503].includes(answer.status) && tries < topology.workers.length; tries += 1) {
          answer = await turn(topology, conversation, history);
        }
        history.push(...answer.output);
        return answer;
      };
      const created = await ask('One.');
      expect(created).toMatchObject({ status: 200, outcome: 'created' });
      // The balancer goes round: two of three requests meet a worker that does not own the session.
      for (const text of ['Two.', 'Three.', 'Four.']) {
        expect(await ask(text)).toMatchObject({ status: 200, outcome: 'live_reuse', session: created.session });
      }
      const socket = await connectSocket(topology.url, { authorization: `Bearer ${topology.apiKey}` });
      const [event] = (await socket.create({ model: 'demo', input: [say('On a WebSocket.')], store: false })).slice(-1);
      expect(event).toMatchObject({ type: 'response.completed' });
      socket.close();
      const pages = await Promise.all(
        topology.workers.map(async ({ url }) => {
          const headers = { authorization: `Bearer ${topology.adminToken}` };
          return (await fetch(`${url}/metrics`, { headers })).text();
        }),
      );
      expect(pages.join('\n')).toMatch(/^holdfast_forwards_total\{[^}]*\} [1-9]/m);

      let over = false;
      const stopped = first!.stop().finally(() => {
        over = true;
      });
      while (!over) {
        expect(await ask('During the drain.')).toMatchObject({ status: 200, session: created.session });
      }
      expect(await stopped).toBe(0);
      expect(await first!.check()).toBe(1);
      for (const text of ['After it.', 'And again.', 'Once more.', 'The last.']) {
        expect(await ask(text)).toMatchObject({ status: 200, session: created.session });
      }
    } finally {
      await topology.close();
    }
  },
);

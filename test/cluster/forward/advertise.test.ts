import { createServer } from 'node:http';
import { describe, expect, it } from 'vitest';
import { advertisedUrl, checkAdvertised, type MachineAddress } from '../../../src/cluster/forward/advertise.ts';
import { ConfigError, readConfig } from '../../../src/config.ts';
import { systemClock } from '../../../src/system.ts';
import { startOwner, startTcp } from './support.ts';

const lan: MachineAddress = { address: '10.0.0.4', family: 'IPv4', internal: false };
const loopback: MachineAddress = { address: '127.0.0.1', family: 'IPv4', internal: true };
const base = {
  advertiseUrl: null,
  host: '127.0.0.1',
  port: 4100,
  databaseUrl: 'postgres://db.internal:5432/holdfast',
  addresses: [loopback, lan],
};
const announced = (options: Partial<Parameters<typeof advertisedUrl>[0]>) => advertisedUrl({ ...base, ...options });

describe('announced address of a worker', () => {
  it('The announced address is the one on which the worker listens', () => {
    expect(announced({ host: '10.0.0.4' })).toBe('http://10.0.0.4:4100');
    expect(announced({ host: 'fd00::1' })).toBe('http://[fd00::1]:4100');
    expect(announced({ host: 'worker-1.pods' })).toBe('http://worker-1.pods:4100');
  });

  it('HOLDFAST_ADVERTISE_URL overrides the address on which the worker listens', () => {
    expect(announced({ host: '0.0.0.0', advertiseUrl: 'http://10.9.9.9:80' })).toBe('http://10.9.9.9:80');
  });

  it('A worker that listens on all interfaces announces the machine’s only address, and demands a setting when there are several', () => {
    expect(announced({ host: '0.0.0.0' })).toBe('http://10.0.0.4:4100');
    expect(announced({ host: '::' })).toBe('http://10.0.0.4:4100');
    const second = { ...lan, address: '192.168.1.4' };
    expect(() => announced({ host: '0.0.0.0', addresses: [lan, second] })).toThrow(/set HOLDFAST_ADVERTISE_URL/);
    expect(() => announced({ host: '0.0.0.0', addresses: [loopback] })).toThrow(ConfigError);
  });

  it('A loopback address is announced only while the database is on this machine', () => {
    const here = [
      null,
      'postgres://localhost/h',
      'postgres://127.0.0.1:5432/h',
      'postgres://[::1]/h',
      'postgres://10.0.0.4/h',
      'postgres:///h?host=/run/postgresql',
      'postgres://%2Frun%2Fpostgresql/h',
    ];
    for (const databaseUrl of here) expect(announced({ databaseUrl })).toBe('http://127.0.0.1:4100');
    expect(announced({ databaseUrl: null, host: '0.0.0.0' })).toBe('http://127.0.0.1:4100');
    for (const advertiseUrl of [null, 'http://localhost:4100', 'http://[::1]:4100', 'http://127.0.0.2:4100']) {
      expect(() => announced({ advertiseUrl })).toThrow(/the database is on another machine/);
    }
  });

  it('A wildcard address is never announced', () => {
    for (const advertiseUrl of ['http://0.0.0.0:4100', 'http://[::]:4100']) {
      expect(() => announced({ advertiseUrl, databaseUrl: null })).toThrow(/no address a peer could connect to/);
    }
  });
});

describe('check before a worker registers', () => {
  const check = (url: string, timeoutMs: number) =>
    checkAdvertised({ url, workerId: 'worker-a', clock: systemClock, timeoutMs });

  it('The check passes when the address leads to the worker itself', async () => {
    const owner = await startOwner();
    await check(owner.server.url, 5_000);
    await owner.close();
  });

  it('The check fails with a clear error when another worker answers', async () => {
    const other = await startOwner({ workerId: 'worker-z' });
    await expect(check(other.server.url, 60_000)).rejects.toThrow(/another worker answers there/);
    await other.close();
  });

  it('The check fails with a clear error when the connection is refused, times out, or reaches something else', async () => {
    const deserted = await startTcp(() => {});
    await deserted.close();
    await expect(check(deserted.url, 100)).rejects.toThrow(/ECONNREFUSED.*Check HOLDFAST_ADVERTISE_URL/);
    const mute = await startTcp((socket) => socket.resume());
    await expect(check(mute.url, 100)).rejects.toThrow(/nothing answers there in time/);
    await mute.close();
    const web = createServer((_req, res) => res.end('<html>')).listen(0, '127.0.0.1');
    await new Promise((done) => web.once('listening', done));
    const { port } = web.address() as { port: number };
    await expect(check(`http://127.0.0.1:${port}`, 100)).rejects.toThrow(/is no worker/);
    await new Promise((done) => web.close(done));
  });

  it('The check waits for an address that comes up late', async () => {
    const late = await startTcp(() => {});
    await late.close();
    const passed = check(late.url, 20_000);
    const server = createServer((_req, res) => res.end('{"id":"worker-a"}'));
    await new Promise<void>((done) => server.listen(late.port, '127.0.0.1', done));
    await passed;
    await new Promise((done) => server.close(done));
  });
});

describe('settings of the internal listener', () => {
  it('The settings of the internal listener have defaults and are read from the environment', () => {
    expect(readConfig({}).internal).toEqual({ host: null, port: 0, advertiseUrl: null });
    const env = {
      HOLDFAST_INTERNAL_HOST: '10.0.0.4',
      HOLDFAST_INTERNAL_PORT: '4100',
      HOLDFAST_ADVERTISE_URL: 'http://Worker-1:4100/',
    };
    expect(readConfig(env).internal).toEqual({ host: '10.0.0.4', port: 4100, advertiseUrl: 'http://worker-1:4100' });
    expect(readConfig({}).deadlines.forwardSilence).toBe(10_000);
  });

  it('Invalid settings of the internal listener are refused', () => {
    for (const url of ['worker-1:4100', 'ftp://worker-1', 'http://worker-1/path', 'http://user:pw@worker-1', 'x']) {
      expect(() => readConfig({ HOLDFAST_ADVERTISE_URL: url })).toThrow(/HOLDFAST_ADVERTISE_URL must be/);
    }
    expect(() => readConfig({ HOLDFAST_INTERNAL_PORT: 'x' })).toThrow(/HOLDFAST_INTERNAL_PORT/);
  });
});

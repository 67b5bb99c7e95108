import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { readConfig } from '../../../src/config.ts';
import { BridgeError } from '../../../src/errors.ts';
import type { ClientSink } from '../../../src/session/port.ts';
import { createQuota, type Lease, resetText, type TenantLimit } from '../../../src/session/quota.ts';
import { TurnStream } from '../../../src/session/turn.ts';
import { createManualClock } from '../../../src/testing/index.ts';

const open = (env: Record<string, string> = {}) => {
  const clock = createManualClock();
  const refused: TenantLimit[] = [];
  let givenUp = 0;
  const quota = createQuota({
    config: readConfig(env),
    clock,
    onRefused: (limit) => refused.push(limit),
    onGivenUp: () => (givenUp += 1),
  });
  return { clock, quota, refused, givenUp: () => givenUp };
};
const shared = { HOLDFAST_UPSTREAM_KEY: 'sk', HOLDFAST_API_KEYS: 'a:1,b:2' };

function refusalOf(ask: () => unknown): BridgeError {
  try {
    ask();
  } catch (error) {
    return error as BridgeError;
  }
  throw new Error('nothing was refused');
}

type Step =
  | { do: 'admit'; scope: number; declared: number }
  | { do: 'run' | 'end'; nth: number }
  | { do: 'read'; nth: number; bytes: number };

const step: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('admit' as const),
    scope: fc.integer({ min: 0, max: 3 }),
    declared: fc.integer({ min: -5, max: 400 }),
  }),
  fc.record({ do: fc.constantFrom('run' as const, 'end' as const), nth: fc.nat(30) }),
  fc.record({ do: fc.constant('read' as const), nth: fc.nat(30), bytes: fc.nat(300) }),
);

describe('quota invariants over random orders', () => {
  it('In any order of requests no tenant exceeds a limit, an idle tenant may always run, and nothing remains at the end', () => {
    fc.assert(
      fc.property(fc.array(step, { maxLength: 150 }), fc.integer({ min: 1, max: 9 }), (steps, sockets) => {
        const { quota } = open({
          ...shared,
          HOLDFAST_MAX_SOCKETS: String(sockets),
          HOLDFAST_TENANT_TURNS: '3',
          HOLDFAST_TENANT_WAITING: '4',
          HOLDFAST_MAX_BODY_BYTES: '100',
          HOLDFAST_TENANT_BODIES_BYTES: '500',
        });
        const leases: { lease: Lease; scope: number; state: 'waiting' | 'running' | 'ended'; bytes: number }[] = [];
        const of = (scope: number, state: string) =>
          leases.filter((l) => l.scope === scope && l.state === state).length;
        for (const each of steps) {
          if (each.do === 'admit') {
            try {
              const lease = quota.admit(`t${each.scope}`, { declaredBytes: each.declared });
              leases.push({ lease, scope: each.scope, state: 'waiting', bytes: Math.max(0, each.declared) });
            } catch (error) {
              expect((error as BridgeError).code).toBe('bridge_tenant_busy');
            }
            continue;
          }
          const one = leases[each.nth % Math.max(1, leases.length)];
          if (!one) continue;
          const idle = of(one.scope, 'running') === 0;
          const running = leases.filter(({ state }) => state === 'running').length;
          if (each.do === 'end') {
            one.lease.end();
            one.state = 'ended';
          } else if (each.do === 'run') {
            const may = one.lease.run();
            if (one.state === 'waiting') {
              if (idle) expect(may).toBe(true);
              // A tenant never takes the last place that is free for another.
              if (may && !idle) expect(running + 1).toBeLessThanOrEqual(sockets);
              if (may) one.state = 'running';
            }
          } else if ('bytes' in each) {
            try {
              one.lease.addBytes(each.bytes);
            } catch (error) {
              expect(error).toBeInstanceOf(BridgeError);
            }
          }
          for (let scope = 0; scope < 4; scope += 1) {
            expect(of(scope, 'running')).toBeLessThanOrEqual(3);
            expect(of(scope, 'waiting')).toBeLessThanOrEqual(4);
          }
          expect(quota.inHand.bytes).toBeLessThanOrEqual(4 * 500);
          expect(quota.inHand.running).toBe(leases.filter(({ state }) => state === 'running').length);
          expect(quota.inHand.waiting).toBe(leases.filter(({ state }) => state === 'waiting').length);
        }
        for (const { lease } of leases) lease.end();
        for (const { lease } of leases) lease.end();
        expect(quota.inHand).toEqual({ waiting: 0, running: 0, bytes: 0 });
        expect(quota.tenants).toBe(0);
      }),
      { numRuns: 300 },
    );
  });

  it('In any order buffers stay within their budget, and their bytes are counted exactly', () => {
    const grow = fc.record({
      scope: fc.integer({ min: 0, max: 2 }),
      nth: fc.nat(4),
      // Null: the buffer is emptied, perhaps more than once.
      bytes: fc.option(fc.integer({ min: 0, max: 90 }), { freq: 4 }),
    });
    fc.assert(
      fc.property(fc.array(grow, { maxLength: 120 }), fc.boolean(), (steps, several) => {
        const { quota } = open({
          ...(several ? shared : { HOLDFAST_UPSTREAM_KEY: 'sk' }),
          HOLDFAST_TURN_BUFFERS_BYTES: '300',
        });
        const kept = new Map<string, number>();
        const shares = new Map<string, ReturnType<typeof quota.buffer>>();
        for (const { scope, nth, bytes } of steps) {
          const name = `${scope}/${nth}`;
          const share = shares.get(name) ?? quota.buffer(`t${scope}`, () => kept.delete(name));
          shares.set(name, share);
          if (bytes === null) {
            kept.delete(name);
            share.empty();
          } else {
            kept.set(name, (kept.get(name) ?? 0) + bytes);
            share.grow(bytes);
          }
          const sum = [...kept.values()].reduce((all, one) => all + one, 0);
          expect(quota.bufferedBytes).toBe(sum);
          expect(sum).toBeLessThanOrEqual(300);
          const own = [...kept].filter(([key]) => key.startsWith(`${scope}/`)).reduce((all, [, one]) => all + one, 0);
          if (several && bytes !== null) expect(own).toBeLessThanOrEqual(300 - sum);
        }
        for (const share of shares.values()) share.empty();
        expect(quota.bufferedBytes).toBe(0);
      }),
    );
  });
});

describe('shares', () => {
  const running = (env: Record<string, string>, scope: string, asked: number) => {
    const { quota } = open(env);
    return Array.from({ length: asked }, () => quota.admit(scope).run()).filter(Boolean).length;
  };

  it('A share leaves as many sockets free as the tenant holds, when there can be several tenants', () => {
    expect(running({ ...shared, HOLDFAST_MAX_SOCKETS: '8' }, 'tenant:a', 20)).toBe(4);
    expect(running({ HOLDFAST_MAX_SOCKETS: '8' }, 'cred:1', 20)).toBe(4);
  });

  it('A share is unlimited when there is one tenant', () => {
    expect(running({ HOLDFAST_UPSTREAM_KEY: 'sk', HOLDFAST_MAX_SOCKETS: '8' }, 'local', 20)).toBe(20);
    const one = { HOLDFAST_UPSTREAM_KEY: 'sk', HOLDFAST_API_KEYS: 'a:1,a:2' };
    expect(running({ ...one, HOLDFAST_MAX_SOCKETS: '8' }, 'tenant:a', 20)).toBe(20);
  });

  it('A share shrinks as more tenants run, so that each newcomer finds a place', () => {
    const { quota } = open({ ...shared, HOLDFAST_MAX_SOCKETS: '12' });
    const held = ['a', 'b', 'c', 'd'].map(
      (scope) => Array.from({ length: 20 }, () => quota.admit(scope).run()).filter(Boolean).length,
    );
    expect(held).toEqual([6, 3, 2, 1]);
    expect(quota.inHand.running).toBe(12);
  });

  it('Body bytes count the announced Content-Length once, plus what was read beyond it', () => {
    const { quota, refused } = open({ HOLDFAST_MAX_BODY_BYTES: '100', HOLDFAST_TENANT_BODIES_BYTES: '250' });
    const lease = quota.admit('a', { declaredBytes: 100 });
    lease.addBytes(60);
    lease.addBytes(40);
    expect(quota.inHand.bytes).toBe(100);
    lease.addBytes(60);
    expect(quota.inHand.bytes).toBe(160);
    expect(refusalOf(() => lease.addBytes(100)).code).toBe('bridge_tenant_busy');
    expect([refused, quota.inHand.bytes]).toEqual([['bodies'], 160]);
    expect(refusalOf(() => quota.admit('a', { declaredBytes: 91 })).code).toBe('bridge_tenant_busy');
    expect(quota.admit('b', { declaredBytes: 250 }).run()).toBe(true);
  });

  it('A share of body bytes leaves as many free as the tenant holds, when there can be several tenants', () => {
    const { quota } = open({ ...shared, HOLDFAST_BODIES_BYTES: '1000' });
    const held = (scope: string) => {
      for (let count = 0; ; count += 1) {
        try {
          quota.admit(scope, { declaredBytes: 100 });
        } catch {
          return count;
        }
      }
    };
    expect(['a', 'b', 'c'].map(held)).toEqual([5, 3, 1]);
    expect(quota.inHand.bytes).toBeLessThanOrEqual(1_000);
  });

  it('A share of body bytes is never smaller than one body', () => {
    const { quota } = open({ HOLDFAST_TENANT_BODIES_BYTES: '1', HOLDFAST_MAX_BODY_BYTES: '100' });
    quota.admit('a').addBytes(100);
    expect(quota.inHand.bytes).toBe(100);
  });
});

describe('unread bytes', () => {
  it('Turns with slow readers are held back once their unread bytes together exceed the limit, until each client catches up', () => {
    const { quota } = open({ HOLDFAST_TURN_BUFFERS_BYTES: '1000' });
    const paused: string[] = [];
    const turn = (name: string, keepsUp: boolean) => {
      let drain = () => {};
      let gone = () => {};
      const sink = {
        attached: true,
        shown: true,
        event: () => keepsUp,
        onDrain: (listener: () => void) => (drain = listener),
        onGone: (listener: () => void) => (gone = listener),
        onDelivered: () => {},
      } as unknown as ClientSink;
      const stream = new TurnStream(sink, {
        bufferBytes: 5_000,
        unread: quota.unread,
        onPressure: (on) => paused.push(`${name} ${on}`),
      });
      return { push: () => stream.push('t', 'x'.repeat(300), false), drain: () => drain(), gone: () => gone() };
    };
    const [slow, slower, brisk] = [turn('slow', false), turn('slower', false), turn('brisk', true)];
    for (const one of [slow, slower, brisk, slow]) one.push();
    expect([quota.unreadBytes, paused]).toEqual([900, []]);
    slower.push();
    brisk.push();
    expect([quota.unreadBytes, paused]).toEqual([1_200, ['slower true']]);
    slow.drain();
    expect([quota.unreadBytes, paused.at(-1)]).toEqual([600, 'slow false']);
    slower.gone();
    expect(quota.unreadBytes).toBe(0);
  });
});

describe('reads of the store', () => {
  it('Store reads are limited per tenant and queued in order, without delaying other tenants', async () => {
    const { quota } = open(shared);
    const begun: number[] = [];
    const gates = Array.from({ length: 100 }, () => Promise.withResolvers<void>());
    const reads = gates.map(({ promise }, n) =>
      quota.read('a', async () => {
        begun.push(n);
        await promise;
        if (n % 3 === 0) throw new Error('the store does not answer');
      }),
    );
    const settled = Promise.allSettled(reads);
    expect(begun).toHaveLength(32);
    expect(await quota.read('b', async () => 'read')).toBe('read');
    gates[5]!.resolve();
    await reads[5];
    expect(begun).toHaveLength(33);
    for (const gate of gates) gate.resolve();
    expect((await settled).filter(({ status }) => status === 'fulfilled')).toHaveLength(66);
    expect(begun).toEqual(gates.map((_, n) => n));
  });
});

describe('requests per minute', () => {
  const limited = (perMinute: number) => open({ HOLDFAST_TENANT_REQUESTS_PER_MINUTE: String(perMinute) });

  it('The retry delay is exact: a moment earlier a request is refused, then it is served', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 500 }), fc.array(fc.nat(3_000), { maxLength: 20 }), (perMinute, pauses) => {
        const { clock, quota } = limited(perMinute);
        for (const pause of pauses) {
          for (let asked = 0; ; asked += 1) {
            expect(asked).toBeLessThanOrEqual(perMinute);
            try {
              quota.admit('a').end();
            } catch (error) {
              const { code, retryAfterSeconds, headers } = error as BridgeError;
              expect(code).toBe('bridge_rate_limited');
              expect(headers['x-ratelimit-limit-requests']).toBe(String(perMinute));
              expect(headers['x-ratelimit-remaining-requests']).toBe('0');
              clock.advance(retryAfterSeconds! * 1_000);
              // Rounded up to the next second, not further.
              expect((retryAfterSeconds! - 1) * 1_000).toBeLessThan(60_000 / perMinute);
              quota.admit('a').end();
              break;
            }
          }
          clock.advance(pause);
        }
      }),
      { numRuns: 50 },
    );
  });

  it('The rate limit is exact: one request above it is refused until the window has refilled by one', () => {
    const { clock, quota } = limited(2);
    for (let asked = 0; asked < 2; asked += 1) quota.admit('a').end();
    expect(refusalOf(() => quota.admit('a'))).toMatchObject({
      retryAfterSeconds: 30,
      headers: { 'x-ratelimit-reset-requests': '1m0s' },
    });
    quota.admit('b').end();
    clock.advance(29_999);
    expect(refusalOf(() => quota.admit('a'))).toMatchObject({ retryAfterSeconds: 1 });
    clock.advance(1);
    quota.admit('a').end();
  });

  it('The rate limit is not consumed by refused requests, nor by requests that another worker has counted', () => {
    const { clock, quota } = limited(1);
    quota.admit('a').end();
    for (let asked = 0; asked < 5; asked += 1) refusalOf(() => quota.admit('a'));
    quota.admit('a', { metered: false }).end();
    clock.advance(60_000);
    quota.admit('a').end();
  });

  it('Rate windows are kept for a bounded number of tenants, and dropped when a minute has passed', () => {
    const { clock, quota } = limited(5);
    for (let tenant = 0; tenant < 25_000; tenant += 1) quota.admit(`cred:${tenant}`).end();
    expect(quota.tenants).toBeLessThanOrEqual(10_001);
    clock.advance(60_000);
    for (let asked = 0; asked < 5_000; asked += 1) quota.admit('cred:0', { metered: false }).end();
    expect(quota.tenants).toBeLessThanOrEqual(1);
  });

  it.each([
    [0, '0ms'],
    [20, '20ms'],
    [1_000, '1s'],
    [8_640, '8.64s'],
    [360_000, '6m0s'],
    [61_500, '1m1.5s'],
  ])('A reset delay of %i ms is written as OpenAI does: %s', (ms, text) => {
    expect(resetText(ms)).toBe(text);
  });
});

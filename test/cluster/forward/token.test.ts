import jwt from 'jsonwebtoken';
import { describe, expect, it } from 'vitest';
import { createForwardTokens, type ForwardClaims, ForwardRefused } from '../../../src/cluster/forward/envelope.ts';
import { createManualClock } from '../../../src/testing/manual-clock.ts';
import { parseSecrets } from '../../../src/token/keyring.ts';
import { createTokens } from '../../../src/token/token.ts';
import { SECRETS } from './support.ts';

const hop: ForwardClaims = {
  target: 'worker-a',
  from: 'worker-b',
  sessionId: 's1',
  epoch: 7,
  turnId: 't1',
  mode: 'run',
  attempt: 0,
  requestId: 'r1',
};
const body = Buffer.from('{"some":"body"}');

function setup(options: { secrets?: string; remembered?: number } = {}) {
  const clock = createManualClock();
  const secrets = parseSecrets(options.secrets ?? SECRETS);
  const make = () =>
    createForwardTokens({ secrets, clock, ...(options.remembered ? { remembered: options.remembered } : {}) });
  return { clock, secrets, sender: make(), receiver: make() };
}

function refusal(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    if (error instanceof ForwardRefused) return error.reason;
    throw error;
  }
  return 'accepted';
}

describe('hop token', () => {
  it('A hop token carries the hop to the worker it names', () => {
    const { sender, receiver } = setup();
    expect(receiver.verify(sender.issue(hop, body), body, 'worker-a')).toEqual(hop);
  });

  it('A hop token carries the place of the hop in a trace, and nothing else in its stead', () => {
    const { sender, receiver } = setup();
    const trace = `00-${'a'.repeat(32)}-${'b'.repeat(16)}-01`;
    expect(receiver.verify(sender.issue({ ...hop, trace }, body), body, 'worker-a')).toEqual({ ...hop, trace });
    for (const other of ['', `${trace}-more`, trace.toUpperCase(), trace.replace('00-', 'ff-'), 'x'.repeat(1_000)]) {
      expect(() => sender.issue({ ...hop, trace: other }, body)).toThrow();
    }
  });

  it('A hop token is accepted once', () => {
    const { sender, receiver } = setup();
    const token = sender.issue(hop, body);
    receiver.verify(token, body, 'worker-a');
    expect(refusal(() => receiver.verify(token, body, 'worker-a'))).toBe('replayed');
  });

  it('A hop token is valid for ten seconds, and is remembered for at least as long', () => {
    const { clock, sender, receiver } = setup();
    const used = sender.issue(hop, body);
    const unused = sender.issue(hop, body);
    receiver.verify(used, body, 'worker-a');
    clock.advance(9_999);
    expect(refusal(() => receiver.verify(used, body, 'worker-a'))).toBe('replayed');
    expect(refusal(() => receiver.admit(unused, 'worker-a'))).toBe('accepted');
    clock.advance(1);
    expect(refusal(() => receiver.verify(used, body, 'worker-a'))).toBe('expired');
    expect(refusal(() => receiver.verify(unused, body, 'worker-a'))).toBe('expired');
  });

  it('A hop token can expire while its body is still being read', () => {
    const { clock, sender, receiver } = setup();
    const bind = receiver.admit(sender.issue(hop, body), 'worker-a');
    clock.advance(10_000);
    expect(refusal(() => bind(body))).toBe('expired');
  });

  it('A hop token is refused for other bytes, and is not consumed by them', () => {
    const { sender, receiver } = setup();
    const token = sender.issue(hop, body);
    expect(refusal(() => receiver.verify(token, Buffer.from('{"some":"b0dy"}'), 'worker-a'))).toBe('altered');
    expect(refusal(() => receiver.verify(token, body, 'worker-a'))).toBe('accepted');
  });

  it('A hop token is refused at another worker', () => {
    const { sender, receiver } = setup();
    expect(refusal(() => receiver.verify(sender.issue(hop, body), body, 'worker-c'))).toBe('wrong_target');
  });

  it('A hop token is refused when its hop was altered', () => {
    const { sender, receiver } = setup();
    const [head, claims, signature] = sender.issue(hop, body).split('.') as [string, string, string];
    const changed = JSON.parse(Buffer.from(claims, 'base64url').toString());
    changed.hop.epoch = 8;
    const forged = [head, Buffer.from(JSON.stringify(changed)).toString('base64url'), signature].join('.');
    expect(refusal(() => receiver.verify(forged, body, 'worker-a'))).toBe('signature');
  });

  it('A hop token is refused without a signature, or with one of another installation', () => {
    const { sender, receiver } = setup();
    const claims = jwt.decode(sender.issue(hop, body)) as object;
    const header = { alg: 'none', typ: 'holdfast-hop+jwt', kid: 'k1' };
    const unsigned = `${[header, claims].map((each) => Buffer.from(JSON.stringify(each)).toString('base64url')).join('.')}.`;
    expect(refusal(() => receiver.verify(unsigned, body, 'worker-a'))).toBe('signature');
    const other = setup({ secrets: `k1:${'x'.repeat(32)}` }).sender;
    expect(refusal(() => receiver.verify(other.issue(hop, body), body, 'worker-a'))).toBe('signature');
    const unknown = setup({ secrets: `k9:${'x'.repeat(32)}` }).sender;
    expect(refusal(() => receiver.verify(unknown.issue(hop, body), body, 'worker-a'))).toBe('unknown_key');
    expect(refusal(() => receiver.verify('', body, 'worker-a'))).toBe('missing');
    const unreadable = `${Buffer.from('{"alg":"HS256","typ":"JWT"}').toString('base64url')}.e.c2ln`;
    for (const noise of ['x', 'a.b.c', 'x'.repeat(100_000), unreadable]) {
      expect(refusal(() => receiver.verify(noise, body, 'worker-a'))).toBe('not_a_hop');
    }
  });

  it('A hop token is no turn-state token, nor the reverse, whatever their headers claim', () => {
    const { clock, secrets, sender, receiver } = setup();
    const tokens = createTokens({ secrets, clock });
    const state = tokens.issue({ sessionId: 's1', epoch: 7, scope: 'local', scopeKind: 'local' });
    expect(refusal(() => receiver.verify(state, body, 'worker-a'))).toBe('not_a_hop');
    expect(tokens.verify(sender.issue(hop, body), { scope: 'local', scopeKind: 'local' }).kind).toBe('ignored');

    const key = secrets.signing.key;
    const claims = jwt.decode(sender.issue(hop, body)) as object;
    const disguised = jwt.sign(claims, key, { header: { alg: 'HS256', typ: 'holdfast-hop+jwt', kid: 'k1' } });
    expect(refusal(() => receiver.verify(disguised, body, 'worker-a'))).toBe('signature');
  });

  it('A hop token is not interchangeable with the token of a claim notice', () => {
    const { sender, receiver } = setup();
    const notice = { target: 'worker-a', from: 'worker-b', sessionId: 's1', epoch: 8, news: 'close' as const };
    const token = sender.issueClaimed(notice, body);
    expect(refusal(() => receiver.verify(token, body, 'worker-a'))).toBe('not_a_hop');
    expect(receiver.admitClaimed(token, 'worker-a')(body)).toEqual(notice);
    expect(refusal(() => receiver.admitClaimed(sender.issue(hop, body), 'worker-a'))).toBe('not_a_hop');
  });

  it('A hop token is accepted while clocks differ by less than its lifetime, and not beyond', () => {
    const secrets = parseSecrets(SECRETS);
    const sender = createForwardTokens({ secrets, clock: createManualClock(1_900_000_020_000) });
    const near = createForwardTokens({ secrets, clock: createManualClock(1_900_000_010_000) });
    const far = createForwardTokens({ secrets, clock: createManualClock(1_900_000_009_000) });
    expect(refusal(() => near.verify(sender.issue(hop, body), body, 'worker-a'))).toBe('accepted');
    expect(refusal(() => far.verify(sender.issue(hop, body), body, 'worker-a'))).toBe('from_the_future');
  });

  it('Forwarding tokens are refused while the replay cache is full', () => {
    const { clock, sender, receiver } = setup({ remembered: 2 });
    const use = () => refusal(() => receiver.verify(sender.issue(hop, body), body, 'worker-a'));
    expect([use(), use(), use()]).toEqual(['accepted', 'accepted', 'too_many']);
    clock.advance(10_000);
    expect(use()).toBe('accepted');
  });

  it('A hop token verifies under an old secret after a rotation', () => {
    const old = setup().sender;
    const rotated = setup({ secrets: `k2:${'n'.repeat(32)},${SECRETS}` }).receiver;
    expect(rotated.verify(old.issue(hop, body), body, 'worker-a')).toEqual(hop);
  });
});

describe('sealed credential', () => {
  it('A sealed credential opens only within the installation, and not when altered', () => {
    const { sender, receiver } = setup();
    const sealed = sender.seal('Bearer sk-1');
    expect(sealed).not.toContain('sk-1');
    expect(receiver.open(sealed)).toBe('Bearer sk-1');
    expect(sender.seal('Bearer sk-1')).not.toBe(sealed);
    expect(setup({ secrets: `k1:${'x'.repeat(32)}` }).receiver.open(sealed)).toBeNull();
    const altered = Buffer.from(sealed.slice(3), 'base64url');
    altered[altered.length - 1]! ^= 1;
    expect(receiver.open(`k1:${altered.toString('base64url')}`)).toBeNull();
    for (const noise of ['', 'k1:', 'k1:AAAA', 'nothing']) expect(receiver.open(noise)).toBeNull();
  });
});

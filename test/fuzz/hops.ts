import { createHash, createHmac, randomUUID } from 'node:crypto';
import { request } from 'undici';
import { createSealer, keysFor } from '../../src/cluster/forward/envelope.ts';
import { CLAIMED_PATH, TURN_PATH, VIEW_PATH, WORKER_PATH } from '../../src/cluster/forward/protocol.ts';
import { FORWARD_TOKEN_HEADER } from '../../src/headers.ts';
import { parseSecrets } from '../../src/token/keyring.ts';
import { type At, checkText, headerText } from './judge.ts';
import type { Random } from './random.ts';
import { requests } from './shapes.ts';
import { type Edit, edited, editOf, mutate, odd, render, type Tree } from './tree.ts';
import { LONGEST_MS, SECRETS } from './world.ts';

/** A request to the internal listener; omitted parts default to what a peer would send. */
interface Input {
  path?: string;
  method?: string;
  typ?: Tree;
  header?: { [key: string]: Tree };
  claims?: { [key: string]: Tree };
  hop?: Tree;
  /** True if it is signed with another key. */
  forged?: boolean;
  tokenEdits?: Partial<Edit>[];
  parcel?: Tree;
  /** Edits of the body, applied before signing unless `altered`. */
  edits?: Partial<Edit>[];
  altered?: boolean;
  headers?: { [key: string]: string };
}

const ring = parseSecrets(SECRETS);
const keys = keysFor('hop', ring);
const sealer = createSealer(ring);
const types = new Map([
  [TURN_PATH, 'holdfast-hop+jwt'],
  [CLAIMED_PATH, 'holdfast-claimed+jwt'],
  [VIEW_PATH, 'holdfast-view+jwt'],
]);
const encode = (text: string) => Buffer.from(text, 'utf8').toString('base64url');
const SEALED = '%sealed%';

export const hops = {
  name: 'hops' as const,

  make(r: Random): Tree {
    const path = r.weighted([
      [6, TURN_PATH],
      [2, CLAIMED_PATH],
      [2, VIEW_PATH],
      [0.3, WORKER_PATH],
      [0.3, '/'],
      [0.3, '/internal/../internal/turn'],
      [0.2, '/constructor'],
    ] as const);
    const hop: Tree =
      path === CLAIMED_PATH
        ? { target: '%me%', from: 'w', sessionId: 's', epoch: 1, news: r.pick(['claimed', 'close']) }
        : path === VIEW_PATH
          ? { target: '%me%', from: 'w' }
          : {
              target: '%me%',
              from: 'w',
              sessionId: r.pick<Tree>([null, 's']),
              epoch: r.pick<Tree>([null, 1]),
              turnId: '%id%',
              mode: r.pick(['run', 'resolve']),
              requestId: '%id%',
            };
    const parcel: Tree =
      path === VIEW_PATH
        ? { sessionIds: ['s'], recordOf: r.pick<Tree>([null, 's']) }
        : {
            v: 1,
            requestId: '%id%',
            scope: r.pick(['local', 'tenant:tenant0']),
            credentialFp: 'f',
            credentialIsClients: r.chance(0.5),
            authorization: r.pick<Tree>([null, SEALED]),
            credentialGiven: true,
            keys: {},
            headers: { 'thread-id': '%id%' },
            bytes: 10,
            age: 1,
            body: mutate(r, structuredClone(r.pick(requests)), r.int(3)),
          };
    const input: Input = { path, hop, parcel };
    if (r.chance(0.35)) input.hop = mutate(r, hop, 1 + r.int(2));
    if (r.chance(0.6)) input.parcel = r.chance(0.05) ? odd(r) : mutate(r, parcel, 1 + r.int(3));
    if (r.chance(0.15)) input.method = r.pick(['GET', 'PUT', 'DELETE', 'OPTIONS', 'HEAD']);
    if (r.chance(0.15)) input.header = { [r.pick(['kid', 'alg', 'typ', 'crit'])]: odd(r) };
    if (r.chance(0.15)) input.claims = { [r.pick(['v', 'jti', 'iat', 'exp', 'sha', 'hop'])]: odd(r) };
    if (r.chance(0.1)) input.forged = true;
    if (r.chance(0.15)) input.tokenEdits = [editOf(r)];
    if (r.chance(0.25)) input.edits = Array.from({ length: 1 + r.int(2) }, () => editOf(r));
    if (r.chance(0.1)) input.altered = true;
    if (r.chance(0.1))
      input.headers = {
        [r.pick(['content-type', 'content-encoding', FORWARD_TOKEN_HEADER, 'expect'])]: r.pick([
          'gzip',
          '',
          'a.b.c',
          'x'.repeat(5000),
          'constructor',
        ]),
      };
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const {
      path = TURN_PATH,
      method = path === WORKER_PATH ? 'GET' : 'POST',
      header = {},
      claims = {},
      hop = null,
      parcel = null,
      ...more
    } = given as Input;
    const { world } = at;
    const worker = await request(`${world.internalUrl}${WORKER_PATH}`, { dispatcher: world.agent }).catch(() => null);
    if (!worker) return;
    const { id: me } = (await worker.body.json()) as { id: string };
    const name = randomUUID();
    const filled = (tree: Tree) =>
      render(tree)
        .replaceAll('%me%', me)
        .replaceAll('%id%', name)
        .replaceAll(SEALED, sealer.seal('Bearer sk-peer'))
        .replaceAll('@@', 'fz');
    const plainBody = Buffer.from(path === CLAIMED_PATH ? '' : filled(parcel), 'utf8');
    const body = edited(plainBody, more.edits ?? []);
    const now = Date.now() / 1000;
    const jose = filled({ alg: 'HS256', typ: types.get(path) ?? 'holdfast-hop+jwt', kid: keys.signing.kid, ...header });
    const sha = createHash('sha256')
      .update(more.altered ? plainBody : body)
      .digest('base64url');
    const payload = filled({ v: 1, jti: randomUUID(), iat: now, exp: now + 10, sha, hop, ...claims });
    const signed = `${encode(jose)}.${encode(payload)}`;
    const mac = createHmac('sha256', more.forged ? Buffer.from('another key') : keys.signing.key)
      .update(signed)
      .digest('base64url');
    const token = headerText(edited(Buffer.from(`${signed}.${mac}`, 'latin1'), more.tokenEdits ?? []));
    const limit = AbortSignal.timeout(LONGEST_MS);
    try {
      const answer = await request(`${world.internalUrl}${path}`, {
        method: method as 'POST',
        headers: { [FORWARD_TOKEN_HEADER]: token, 'content-type': 'application/json', ...more.headers },
        body: method === 'GET' || method === 'HEAD' ? null : body,
        dispatcher: world.agent,
        signal: limit,
        headersTimeout: 0,
        bodyTimeout: 0,
      });
      const text = await answer.body.text();
      checkText(at, text, 'an answer to a peer');
      const { statusCode: status } = answer;
      if (/bridge_internal/.test(text)) at.found('internal', `${path}: bridge_internal`, text.slice(0, 300));
      if (![200, 204, 400, 403, 404, 405, 413, 431].includes(status))
        at.found('shape', `${path}: ${status}`, text.slice(0, 300));
    } catch {
      if (limit.aborted && world.crash === null)
        at.found('hang', `no end of an answer: ${path}`, `nothing within ${LONGEST_MS} ms`);
    }
  },
};

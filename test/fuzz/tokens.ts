import { createHmac } from 'node:crypto';
import { type At, headerText, judge, send } from './judge.ts';
import type { Random } from './random.ts';
import { type Edit, edited, editOf, odd, render, type Tree } from './tree.ts';
import { SECRETS } from './world.ts';

/** A turn-state token in parts; omitted parts default to what the worker would write. */
interface Input {
  header?: Tree;
  claims?: Tree;
  /** `own`: the installation's secret. */
  secret?: string;
  algorithm?: string;
  signature?: string;
  edits?: Partial<Edit>[];
  /** Complete token text that replaces all of the above. */
  text?: string;
  /** True if a token that the worker issued is altered. */
  real?: boolean;
  where?: 'header' | 'metadata';
}

const SECRET = SECRETS.slice(SECRETS.indexOf(':') + 1);
const encode = (tree: Tree) => Buffer.from(render(tree), 'utf8').toString('base64url');

export const tokens = {
  name: 'tokens' as const,

  make(r: Random): Tree {
    const now = 4_000_000_000;
    const header: { [key: string]: Tree } = { alg: 'HS256', typ: 'holdfast-turn+jwt', kid: 'fuzz' };
    const claims: { [key: string]: Tree } = {
      v: 1,
      sid: 'x',
      epoch: 1,
      knd: r.pick(['tenant', 'credential', 'local']),
      sch: 'a'.repeat(22),
      iat: 1,
      exp: now,
    };
    if (r.chance(0.4)) header[r.pick(['alg', 'typ', 'kid', 'crit', 'b64', 'zip', 'jku', 'x5u', '__proto_'])] = odd(r);
    if (r.chance(0.3)) header.alg = r.pick(['none', 'None', 'HS512', 'RS256', 'ES256', 'hs256', '']);
    for (let n = r.int(3); n > 0; n -= 1) claims[r.pick(Object.keys(claims))] = odd(r);
    const input: Input = { header, claims, secret: r.pick(['own', 'own', 'other', '']) };
    if (r.chance(0.1)) input.algorithm = 'sha512';
    if (r.chance(0.15)) input.signature = r.pick(['', 'AAAA', '.', '==', 'a'.repeat(3000)]);
    if (r.chance(0.4)) input.edits = Array.from({ length: 1 + r.int(3) }, () => editOf(r));
    if (r.chance(0.4)) input.real = true;
    if (r.chance(0.1))
      input.text = r.pick([
        '',
        '.',
        '..',
        '...',
        'a.b.c',
        'e30.e30.',
        'null',
        '{}',
        'x'.repeat(7000),
        'eyJ0eXAiOiJob2xkZmFzdC10dXJuK2p3dCJ9..',
        'bnVsbA.bnVsbA.bnVsbA',
      ]);
    if (r.chance(0.15)) input.where = 'metadata';
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const {
      header = {},
      claims = {},
      secret = 'own',
      algorithm = 'sha256',
      signature,
      edits = [],
      text,
      real,
      where,
    } = given as Input;
    const plain = { model: 'm', stream: true, store: false, input: [{ role: 'user', content: 'Go on.' }] };
    let token: string;
    if (text !== undefined) token = text;
    else if (real) {
      const first = await send(at, { body: Buffer.from(JSON.stringify(plain)) });
      if (first) judge(at, first, { what: 'a plain turn' });
      token = first?.headers['x-codex-turn-state'] ?? '';
    } else {
      const head = `${encode(header)}.${encode(claims)}`;
      const key = secret === 'own' ? SECRET : String(secret);
      token = `${head}.${
        signature ??
        createHmac(algorithm === 'sha512' ? 'sha512' : 'sha256', key)
          .update(head)
          .digest('base64url')
      }`;
    }
    // Bytes that no client library can send are covered by the raw HTTP target.
    token = headerText(edited(Buffer.from(token, 'latin1'), edits));
    const answer =
      where === 'metadata'
        ? await send(at, {
            body: Buffer.from(
              JSON.stringify({
                ...plain,
                client_metadata: { 'x-codex-turn-state': token, turn_id: token.slice(0, 4000) },
              }),
            ),
          })
        : await send(at, {
            body: Buffer.from(JSON.stringify(plain)),
            headers: { 'x-codex-turn-state': token, 'thread-id': real ? '' : at.thread },
          });
    if (answer) judge(at, answer, { what: 'a turn-state token' });
  },
};

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { type Answer, type At, judge } from './judge.ts';
import { randomOf } from './random.ts';
import { type Case, campaign, caseOf, replayAll, signatureOf, targetNames } from './run.ts';
import { mutate, render, smaller, type Tree } from './tree.ts';

const CASES = Number(process.env.FUZZ_CASES ?? 20_000);
/** Fixed seed for a reproducible test suite; `npm run fuzz` explores further, with a new seed each time. */
const SEED = Number(process.env.FUZZ_SEED ?? 20_261_128);
/** Either pair covers both transports and both kinds of credential, and two workers start faster than four. */
const MODES =
  SEED % 2 === 0 ? (['shared-websocket', 'own-http'] as const) : (['own-websocket', 'shared-http'] as const);
const WITHIN_MS = 70_000;
/** Minimum number of cases that the slowest machine must run in that time. */
const FLOOR = Math.min(CASES, 150);

const FINDINGS = join(import.meta.dirname, 'findings');
const kept = (existsSync(FINDINGS) ? readdirSync(FINDINGS) : []).filter((name) => name.endsWith('.json')).toSorted();

it(`A worker handles up to ${CASES} hostile cases without a crash, an internal error, a hang, a leak or a wedge (seed ${SEED})`, async () => {
  const { total, ran, findings, tookMs } = await campaign({
    seed: SEED,
    count: CASES,
    within: WITHIN_MS,
    modes: MODES,
  });
  console.log(
    `seed ${SEED}: ${total} cases in ${Math.round(tookMs / 1000)} s: ${[...ran].map(([name, times]) => `${name} ${times}`).join(', ')}`,
  );
  expect(
    findings.map(({ property, signature, from, detail, case: one }) => ({
      property,
      signature,
      from,
      detail,
      input: one.input,
    })),
  ).toEqual([]);
  expect(total).toBeGreaterThanOrEqual(FLOOR);
}, 400_000);

it.runIf(kept.length > 0)(
  'Every stored finding stays fixed',
  async () => {
    const cases = kept.map((name) => (JSON.parse(readFileSync(join(FINDINGS, name), 'utf8')) as { case: Case }).case);
    const seen = await replayAll(cases);
    expect(
      seen.flatMap((violations, n) =>
        violations.map(({ property, signature }) => `${kept[n]}: ${property}: ${signature}`),
      ),
    ).toEqual([]);
  },
  400_000,
);

describe('fuzzing tools', () => {
  it('The same seed and number give the same case', () => {
    for (let n = 0; n < 50; n += 1) expect(caseOf(7, n, 'own-http')).toEqual(caseOf(7, n, 'own-http'));
    expect(new Set(Array.from({ length: 50 }, (_, n) => JSON.stringify(caseOf(7, n, 'own-http')))).size).toBe(50);
    expect(targetNames).toEqual(['http', 'bodies', 'sockets', 'frames', 'tokens', 'hops', 'rows', 'plain']);
  });

  it('A case survives a round trip through JSON', () => {
    for (let n = 0; n < 200; n += 1) {
      const one = caseOf(8, n, 'own-http');
      expect(render(JSON.parse(JSON.stringify(one.input)))).toBe(render(one.input));
    }
  });

  it('The renderer writes JSON text that JSON.stringify cannot', () => {
    const tree: Tree = {
      a: { $: 'raw', text: '1E400' },
      b: { $: 'deep', n: 3, of: '[' },
      c: {
        $: 'pairs',
        pairs: [
          ['__proto__', 1],
          ['__proto__', null],
        ],
      },
      d: { $: 'many', n: 2, of: {} },
      e: { $: 'long', n: 3, text: '"' },
    };
    expect(render(tree)).toBe(
      '{"a":1E400,"b":[[[]]],"c":{"__proto__":1,"__proto__":null},"d":[{},{}],"e":"\\"\\"\\""}',
    );
  });

  it('Mutations change a copy and never the original tree', () => {
    const tree: Tree = { type: 'x', items: [{ id: 'a' }, { id: 'b' }] };
    const before = JSON.stringify(tree);
    const r = randomOf(1, 'mutations');
    const changed = Array.from({ length: 300 }, () => JSON.stringify(mutate(r, tree, 1)));
    expect(JSON.stringify(tree)).toBe(before);
    expect(changed.filter((text) => text === before).length).toBeLessThan(30);
  });

  it('Shrinking ends at the smallest tree that still reproduces the violation', () => {
    let tree: Tree = { a: [1, 2, { b: ['x', null, 'y'.repeat(40)] }], c: { d: 'e' } };
    const shows = (each: Tree) => JSON.stringify(each).includes('null');
    for (let again = true; again; ) {
      const less: Tree | undefined = [...smaller(tree)].find(
        (each) => shows(each) && JSON.stringify(each).length < JSON.stringify(tree).length,
      );
      again = less !== undefined;
      if (less !== undefined) tree = less;
    }
    expect(JSON.stringify(tree).length).toBeLessThan(30);
  });

  it('A stack is identified by its error and its first frame in the project', () => {
    const stack =
      "TypeError: Cannot read 'a17'\n    at f (node:internal/x:1:2)\n    at g (file:///x/src/http/app.ts:10:3)";
    expect(signatureOf(stack)).toBe('TypeError: Cannot read ~ src/http/app.ts');
  });
});

describe('the judge', () => {
  const judged = (answer: Partial<Answer>) => {
    const found: string[] = [];
    const at = {
      world: { secrets: ['Zq7secret'] },
      found: (property: string) => void found.push(property),
    } as unknown as At;
    judge(at, { status: 200, headers: {}, text: '', cut: false, left: false, events: [], ...answer }, { what: 'x' });
    return found;
  };
  const envelope = (bridge_code: string) =>
    JSON.stringify({ error: { message: 'm', type: 't', code: 'c', param: null, bridge_code } });
  const sse = { 'content-type': 'text/event-stream; charset=utf-8' };
  const done = 'event: response.completed\ndata: {"type":"response.completed","response":{}}\n\n';

  it.each<[string, Partial<Answer>, string[]]>([
    ['nothing in a good refusal', { status: 404, text: envelope('bridge_not_found') }, []],
    ['nothing in a good stream', { headers: sse, text: `: keepalive\n\n${done}` }, []],
    ['an internal error', { status: 500, text: envelope('bridge_internal') }, ['internal']],
    [
      'an internal error within a stream',
      {
        headers: sse,
        text: 'event: response.failed\ndata: {"response":{"error":{"bridge_code":"bridge_internal"}}}\n\n',
      },
      ['internal'],
    ],
    ['an unknown code', { status: 400, text: envelope('bridge_x') }, ['shape']],
    ['a code with the status of another', { status: 400, text: envelope('bridge_not_found') }, ['shape']],
    ['a page', { status: 404, text: '<html>' }, ['shape']],
    ['an empty refusal', { status: 400 }, ['shape']],
    ['a secret', { text: 'Zq7secret' }, ['leak']],
    ['a secret in a header', { headers: { a: 'Zq7secret' } }, ['leak']],
    ['a stack', { text: 'x\n    at f (/x/y.ts:1:2)' }, ['leak']],
    ['a stream without an end', { headers: sse, text: ': keepalive\n\n' }, ['shape']],
    ['a stream that was cut', { headers: sse, text: 'data: {}\n\n', cut: true }, ['cut']],
    ['two ends', { headers: sse, text: done + done }, ['shape']],
    ['an invalid event', { headers: sse, text: `data: {\n\n${done}` }, ['shape']],
  ])('The judge detects %s', (_name, answer, expected) => expect(judged(answer)).toEqual(expected));
});

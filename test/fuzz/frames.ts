import { type At, judge, send, takesTurn } from './judge.ts';
import type { Random } from './random.ts';
import { streams } from './shapes.ts';
import { editOf, mutate, odd, spoilItems, type Tree } from './tree.ts';
import type { Refusal, Script, Step } from './upstream.ts';

/** A turn whose upstream follows the script. */
interface Input {
  script?: Script;
  /** Fields that override those of a plain request. */
  body?: { [key: string]: Tree };
  leaveAfter?: number;
  /** True if a well-formed turn follows at the end. A session that stays busy is detected without it too. */
  afterwards?: boolean;
  /** Continues the conversation while the script still applies. */
  again?: boolean;
}

const closeCodes = [
  1000, 1001, 1002, 1003, 1005, 1006, 1007, 1008, 1009, 1011, 1012, 1013, 1015, 2999, 3000, 4000, 4999, 0, 65_535,
];

const brokenWire = [
  '\x81\x05abc',
  '\xff\xff\xff\xff',
  '\x81\x7f\x00\x00\x00\x7f\xff\xff\xff\xff',
  '\xc1\x01a',
  '\x83\x01a',
  '\x81\x81abcda',
  '\x01\x02{"',
  '\x80\x02"}',
  `\x89\x7d${'a'.repeat(125)}`,
  '\x88\x01\x03',
  '\x81\x02\xff\xfe',
];
const oddLines = [
  ': comment\n\n',
  'event: response.completed\n\n',
  'data\n\n',
  'data: [DONE]\n\n',
  'retry: 1\n\n',
  'id: 1\n\n',
  '\n\n\n',
  '\r\r',
  'data: {"type":"response.output_text.delta",\ndata: "delta":"x"}\n\n',
  '\xef\xbb\xbfdata: {}\n\n',
  '<html><body>502</body></html>',
  '{"error":{"message":"x"}}',
  'event: error\ndata: {"type":"error","code":"server_error","message":"x"}\n\n',
];
const oddHeaders: [string, string][] = [
  ['content-type', 'text/html'],
  ['content-type', 'application/json'],
  ['content-type', 'text/event-stream; charset=utf-16'],
  ['content-type', ';;;'],
  ['content-encoding', 'gzip'],
  ['content-encoding', 'constructor'],
  ['content-encoding', 'br, gzip'],
  ['retry-after', '1E400'],
  ['retry-after', '-1'],
  ['retry-after', 'Thu, 99 Foo 9999 99:99:99 GMT'],
  ['retry-after', '999999999999999999999'],
  ['retry-after-ms', 'NaN'],
  ['x-request-id', 'a'.repeat(9000)],
  ['openai-model', '\xe9\xff'],
  ['x-codex-turn-state', 'x'.repeat(5000)],
  ['x-codex-primary-used-percent', '__proto__'],
  ['__proto__', 'x'],
  ['constructor', 'x'],
  ['x-should-retry', 'maybe'],
  ['set-cookie', 'a=b; Path=/'],
  ['x-codex-active-limit', 'constructor'],
];

function refusal(r: Random): Refusal {
  const statuses = [
    200, 201, 204, 301, 302, 304, 400, 401, 403, 404, 408, 409, 410, 413, 418, 426, 429, 451, 499, 500, 502, 503, 504,
    529, 599, 600, 799, 999,
  ];
  return {
    status: r.pick(statuses),
    headers: Object.fromEntries(
      Array.from({ length: r.int(3) }, () => r.pick(oddHeaders)).concat(
        r.chance(0.6) ? [['content-type', 'application/json']] : [],
      ),
    ),
    ...r.weighted<() => Refusal>([
      [
        4,
        () => ({
          body: mutate(
            r,
            {
              error: {
                message: 'The upstream says no.',
                type: 'invalid_request_error',
                code: 'invalid_value',
                param: null,
              },
            },
            r.int(3),
          ),
        }),
      ],
      [1, () => ({ body: odd(r) })],
      [
        1,
        () => ({
          text: r.pick([
            '',
            '<html><title>No</title></html>',
            '\0\0',
            'x'.repeat(100_000),
            '{"error":',
            '{"detail":[{"msg":1}]}',
          ]),
        }),
      ],
      [1, () => ({ echo: true, status: 401 })],
      [0.5, () => ({ reset: true })],
    ])(),
  };
}

/** Returns events as steps, each possibly mutated. */
function steps(r: Random): Step[] {
  const base = structuredClone(r.pick(streams)) as Tree[];
  const list: Step[] = base.map((frame) => ({ frame }));
  const somewhere = () => r.int(list.length + 1);
  for (let n = 1 + r.int(4); n > 0; n -= 1) {
    const at = r.int(Math.max(1, list.length));
    // The first and last events have the most effect.
    const place = r.chance(0.4) ? r.pick([0, list.length - 1]) : at;
    const step = list[place];
    switch (r.int(20)) {
      case 0:
        list.splice(at, 1);
        break;
      case 1:
        if (step) list.splice(somewhere(), 0, structuredClone(step));
        break;
      case 2:
        if (step) list.splice(somewhere(), 0, ...list.splice(at, 1));
        break;
      case 3:
        list.splice(somewhere(), 0, { frame: odd(r) });
        break;
      case 4:
        list.splice(somewhere(), 0, {
          binary: r.pick(['\0\x01\x02', '{"type":"response.completed"}', '\xff\xfe', ...oddLines]),
        });
        break;
      case 5:
        list.splice(somewhere(), 0, { wire: r.pick([...brokenWire, ...oddLines]) });
        break;
      case 6:
        list.splice(somewhere(), r.chance(0.5) ? list.length : 0, {
          close: r.pick(closeCodes),
          reason: r.pick(['', 'x', '\0', 'a'.repeat(120)]),
        });
        break;
      case 7:
        list.splice(somewhere(), 0, { reset: true });
        break;
      case 8:
        if (step) step.edits = Array.from({ length: 1 + r.int(3) }, () => editOf(r));
        break;
      case 9:
        list.splice(somewhere(), 0, r.chance(0.5) ? { ping: true } : { pause: r.pick([5, 50, 400]) });
        break;
      case 10:
        list.splice(somewhere(), 0, {
          frame: {
            type: 'error',
            status: r.pick<Tree>([400, 401, 429, 500, 503, null, 'x', 0, 99, 1000]),
            error: mutate(r, { type: 'server_error', code: 'x', message: 'm', param: null }, r.int(3)),
          },
        });
        break;
      case 11:
      case 12:
      case 13:
      case 14: {
        const some = r.pick(list.filter(({ frame }) => /"(?:item|output)"/.test(JSON.stringify(frame ?? null))));
        if (some?.frame !== undefined) some.frame = spoilItems(r, some.frame);
        break;
      }
      default:
        if (step?.frame !== undefined) step.frame = mutate(r, step.frame, 1 + r.int(3));
    }
  }
  return list;
}

export const frames = {
  name: 'frames' as const,

  make(r: Random): Tree {
    const script: Script = {};
    if (r.chance(0.1)) {
      script.upgrade = refusal(r);
      script.http = refusal(r);
    } else {
      script.steps = steps(r);
      if (r.chance(0.1)) {
        script.handshake = Array.from({ length: 1 + r.int(2) }, () => r.pick(oddHeaders).join(': '));
        script.headers = Object.fromEntries([r.pick(oddHeaders)]);
      }
      if (r.chance(0.3)) script.pieces = Array.from({ length: 1 + r.int(4) }, () => 1 + r.int(r.pick([2, 40, 3000])));
      if (r.chance(0.2)) script.newline = r.pick(['\r\n', '\r', '\n\n', '']);
    }
    const input: Input = {
      script,
      body: {
        stream: r.chance(0.7),
        store: r.chance(0.5),
        ...(r.chance(0.1) ? { generate: false } : {}),
      },
      ...(r.chance(0.08) ? { leaveAfter: r.pick([1, 10, 40, 200]) } : {}),
      ...(r.chance(0.15) ? { again: true } : {}),
      ...(r.chance(0.7) ? { afterwards: false } : {}),
    };
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const { script = {}, body: fields, leaveAfter, again, afterwards = true } = given as Input;
    const { upstream } = at.world;
    upstream.play(at.thread, script);
    const input: Tree[] = [{ role: 'user', content: 'Say something.' }];
    const post = (extra: object) =>
      send(at, {
        body: Buffer.from(JSON.stringify({ model: 'm', input, ...fields, ...extra })),
        ...(leaveAfter === undefined ? {} : { leaveAfter }),
      });
    const answer = await post({});
    if (answer) judge(at, answer, { hostile: true, what: 'a turn' });
    if (again && at.world.crash === null) {
      const id = /"id":"(resp_[^"\\]{1,80})"/.exec(answer?.text ?? '')?.[1];
      const second = await post({
        input: [...input, { role: 'user', content: 'And?' }],
        ...(id ? { previous_response_id: id, input: [{ role: 'user', content: 'And?' }] } : {}),
      });
      if (second) judge(at, second, { hostile: true, what: 'a continued turn' });
    }
    upstream.calm(at.thread);
    if (afterwards && at.world.crash === null) await takesTurn(at, 'hostile frames');
  },
};

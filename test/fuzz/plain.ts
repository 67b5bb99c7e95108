import { type Answer, type At, isGood, judge, send } from './judge.ts';
import type { Random } from './random.ts';
import type { Tree } from './tree.ts';

/** A well-formed conversation beside the hostile cases, which must not affect it. */
interface Input {
  turns?: number;
  anchored?: boolean;
  stream?: boolean;
  store?: boolean;
}

export const plain = {
  name: 'plain' as const,

  make(r: Random): Tree {
    const input: Input = { turns: 1 + r.int(4), anchored: r.chance(0.5), stream: r.chance(0.7), store: r.chance(0.5) };
    return input as Tree;
  },

  async run(given: Tree, at: At): Promise<void> {
    const { turns = 1, anchored = false, stream = true, store = false } = given as Input;
    const history: object[] = [];
    let id: string | null = null;
    for (let n = 0; n < turns; n += 1) {
      const next = { role: 'user', content: [{ type: 'input_text', text: `Turn ${n} of ${at.thread}` }] };
      const anchor = anchored && id !== null ? { previous_response_id: id } : {};
      const input = anchored && id !== null ? [next] : [...history, next];
      const answer: Answer | null = await send(at, {
        body: Buffer.from(JSON.stringify({ model: 'm', stream, store, input, ...anchor })),
      });
      if (at.world.crash !== null) return;
      if (answer) judge(at, answer, { what: 'a plain conversation' });
      if (!answer || !isGood(answer)) {
        const code = /"bridge_code":"(\w+)"/.exec(answer?.text ?? '')?.[1] ?? '';
        return at.found(
          'afterwards',
          `a plain conversation: ${answer?.status ?? 'no answer'} ${code}`,
          answer?.text.slice(-300) ?? '',
        );
      }
      const response = (stream ? answer.events.at(-1)!.data.response : JSON.parse(answer.text)) as {
        id: string;
        output: object[];
      };
      id = response.id;
      history.push(next, ...response.output);
    }
  },
};

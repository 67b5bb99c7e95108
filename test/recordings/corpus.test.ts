import { existsSync, readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../src/testing/index.ts';
import { terminalsOf } from '../support/client.ts';
import { ask, type Continued, continued, difference, endOf, judge, lastWord, user, WAYS } from './conversation.ts';
import { type Json, type Player, startPlayer } from './player.ts';

/** Folder with recorded traffic of providers: data of third parties, read in place, and not part of this project. */
const FOLDER = process.env.RECORDINGS ?? new URL('../../../shared/recordings/', import.meta.url).pathname;
const present = existsSync(`${FOLDER}/streams.jsonl`);
if (!present) console.log(`The recorded traffic is not at ${FOLDER} (see RECORDINGS): facts.test.ts stands for it.`);

/** Number of concurrent conversations. */
const AT_ONCE = 8;

interface Pair {
  case: string;
  request: Json;
  response: Json & { output: Json[] };
  'followup-request': Json & { input: Json[] };
}

function load<T>(name: string): T[] {
  if (!present) return [];
  const lines = readFileSync(`${FOLDER}/${name}`, 'utf8').split('\n');
  return lines.filter((line) => line !== '').map((line) => JSON.parse(line) as T);
}

/** Returns the responses of a file: some hold several, one after the other. */
function responsesOf(events: readonly Json[]): Json[][] {
  const responses: Json[][] = [];
  for (const event of events) {
    if (event.type === 'response.created' || responses.length === 0) responses.push([]);
    responses.at(-1)!.push(event);
  }
  return responses;
}

interface Recorded {
  name: string;
  events: Json[];
  /** True if it ends as an answer that a client can continue. */
  continuable: boolean;
}

const streams = load<{ source: string; file: string; events: Json[] }>('streams.jsonl').flatMap(({ file, events }, n) =>
  responsesOf(events).map((response, part): Recorded => {
    const end = response[endOf(response)]?.type;
    const continuable = end === 'response.completed' || end === 'response.incomplete';
    return { name: `${n}.${part} ${file}`, events: response, continuable };
  }),
);
const pairs = load<Pair>('pairs.jsonl');

interface Row {
  upstream: string;
  client: string;
  relayed: string;
  extensions: number;
  deltas: number;
  'one session': number;
}

/** Runs all of them, a few concurrently. */
async function each<T>(list: readonly T[], run: (one: T, index: number) => Promise<void>): Promise<void> {
  const rest = [...list.entries()];
  const worker = async () => {
    for (let next = rest.shift(); next; next = rest.shift()) await run(next[1], next[0]);
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
}

describe.skipIf(!present)('recorded corpus', () => {
  const table: Row[] = [];
  afterAll(() => table.length > 0 && console.table(table));

  describe.each(['websocket', 'http'] as const)('recorded corpus over a %s upstream', (upstream) => {
    let player: Player;
    let at: TestBridge;
    let named = 0;

    beforeAll(async () => {
      player = await startPlayer({ webSocket: upstream === 'websocket' });
      const env = {
        HOLDFAST_UPSTREAM_URL: player.url,
        HOLDFAST_UPSTREAM_TRANSPORT: upstream,
        // The player answers at once: a stream that is not understood fails soon and is counted.
        HOLDFAST_FIRST_EVENT_MS: '10000',
        HOLDFAST_STREAM_SILENCE_MS: '10000',
      };
      at = await testBridge({ env });
    });
    afterAll(async () => {
      await at?.close();
      await player?.close();
    });

    const conversation = (keyed: boolean) => {
      const credential = `Bearer sk-${upstream}-${++named}`;
      return { url: at.url, player, credential, thread: keyed ? `thread-${upstream}-${named}` : null };
    };

    /** Adds a row to the table; returns the values for the assertions. */
    function count(client: string, seen: readonly (Continued & { wrong: string | null; name: string })[]): void {
      const right = seen.filter(({ wrong }) => wrong === null);
      const deltas = seen.filter(({ delta }) => delta);
      const single = seen.filter(({ sessions }) => sessions === 1);
      table.push({
        upstream,
        client,
        relayed: `${right.length} of ${seen.length}`,
        extensions: seen.length,
        deltas: deltas.length,
        'one session': single.length,
      });
      expect.soft(seen.filter(({ wrong }) => wrong !== null).map(({ name, wrong }) => `${name}: ${wrong}`)).toEqual([]);
      expect.soft(seen.filter(({ status }) => status !== 200).map(({ name }) => name)).toEqual([]);
      expect.soft(seen.filter(({ sessions }) => sessions !== 1).map(({ name }) => name)).toEqual([]);
      if (upstream === 'http') return;
      const full = seen.filter(({ delta }) => !delta).map(({ name }) => name);
      expect.soft(full.length, `sent in full: ${full.join(', ')}`).toBeLessThanOrEqual(seen.length * 0.01);
      expect.soft(seen.filter(({ sockets }) => sockets !== 1).map(({ name }) => name)).toEqual([]);
    }

    // HTTP has no deltas: one keyed and one keyless client suffice to test the relaying and the look-up.
    const clients = WAYS.flatMap((way) => [true, false].map((keyed) => ({ way, keyed }))).filter(
      ({ way, keyed }) => upstream === 'websocket' || way === WAYS[keyed ? 0 : 1],
    );

    it.each(clients)(
      'Each recorded stream is relayed and continued, $way.name, keyed $keyed',
      async ({ way, keyed }) => {
        const seen: (Continued & { wrong: string | null; name: string })[] = [];
        await each(
          streams.filter(({ continuable }) => continuable),
          async ({ name, events }) => {
            const { model } = (events[0]!.response ?? {}) as Json;
            const include = ['reasoning.encrypted_content'];
            const base = { model: model ?? 'm', stream: true, store: false, include, input: [user(`Go: ${name}`)] };
            const run = await continued(conversation(keyed), events, way, base);
            seen.push({ ...run, wrong: difference(events, run.first), name });
          },
        );
        count(`${way.name}, ${keyed ? 'keyed' : 'keyless'}`, seen);
      },
      120_000,
    );

    it.each([true, false])('Each recorded pair is continued by its recorded request, keyed %s', async (keyed) => {
      const seen: (Continued & { wrong: string | null; name: string })[] = [];
      await each(pairs, async ({ case: name, request, response, 'followup-request': followup }) => {
        const here = conversation(keyed);
        player.program(here.credential, [{ events: eventsOf(response) }, lastWord(`resp_last_${named}`)]);
        const first = await ask(here, { ...request, stream: true });
        const second = await ask(here, { ...followup, stream: true });
        const before = Array.isArray(request.input) ? request.input.length : 1;
        const added = followup.input.length - before - response.output.length;
        const wrong = difference(eventsOf(response), first);
        seen.push({ ...judge(first, second, player.received(here.credential), added), wrong, name });
      });
      count(`recorded follow-up, ${keyed ? 'keyed' : 'keyless'}`, seen);
    });

    it('Each recorded pair is answered as JSON as it was recorded', async () => {
      const wrong: string[] = [];
      await each(pairs, async ({ case: name, request, response }) => {
        const here = conversation(true);
        player.program(here.credential, [{ events: eventsOf(response) }]);
        const answer = await ask(here, request);
        if (!isDeepStrictEqual(answer.body, { ...response, previous_response_id: null })) wrong.push(name);
      });
      expect(wrong).toEqual([]);
    });

    it('Recorded streams that fail or have no end are relayed and end once', async () => {
      const ends = streams.filter(({ continuable }) => !continuable);
      expect(ends.length).toBeGreaterThan(1);
      const wrong: string[] = [];
      await each(ends, async ({ name, events }) => {
        const here = conversation(true);
        // A stream without a beginning is no stream of responses: nothing of it can reach the client.
        const own = events.filter(({ type }) => typeof type === 'string');
        const hangUp = endOf(events) < 0;
        player.program(
          here.credential,
          Array.from({ length: 4 }, () => ({ events, hangUp })),
        );
        const answer = await ask(here, { model: 'm', stream: true, store: false, input: [user(name)] });
        if (answer.status !== 200) {
          if (own.length > 0) wrong.push(`${name}: status ${answer.status}`);
          return;
        }
        if (terminalsOf(answer).length !== 1) wrong.push(`${name}: ${terminalsOf(answer).length} ends`);
        const end = endOf(own);
        const shown = difference(end < 0 ? own : own.slice(0, end), { ...answer, events: answer.events.slice(0, -1) });
        if (shown !== null) wrong.push(`${name}: ${shown}`);
      });
      expect(wrong).toEqual([]);
    });
  });
});

/** Returns the events that would have delivered a response that was recorded whole. */
function eventsOf(response: Pair['response']): Json[] {
  const begun = { ...response, status: 'in_progress', output: [], usage: null };
  return [
    { type: 'response.created', response: begun },
    { type: 'response.in_progress', response: begun },
    ...response.output.flatMap((item, output_index) => [
      { type: 'response.output_item.added', item, output_index },
      { type: 'response.output_item.done', item, output_index },
    ]),
    { type: 'response.completed', response },
  ].map((event, sequence_number) => ({ ...event, sequence_number }));
}

/** A mutant that no test can detect, because it behaves like the original. */
export interface Equivalent {
  file: string;
  /** The complete original text, as in the JSON report and `--list`. */
  original: string;
  /** The complete text of the mutant; empty when the original is removed. */
  mutant: string;
  reason: string;
}

/** Creates entries for mutants of one file with the same reason, from pairs of original and mutant. */
const alike = (file: string, reason: string, changes: readonly (readonly [string, string])[]): Equivalent[] =>
  changes.map(([original, mutant]) => ({ file, original, mutant, reason }));

const FRAMES = 'src/session/frames.ts';
const FENCE = 'src/store/postgres/schema/fence.ts';

/** Mutants that do not count as survivors. Each must still exist, and its reason must hold for every caller. */
export const equivalents: readonly Equivalent[] = [
  {
    file: 'src/upstream/frames.ts',
    original: "type.startsWith('response.')",
    mutant: 'false',
    reason: 'No known code or class of errors begins with `response.`, so the question after it answers false as well.',
  },
  ...alike(FRAMES, 'Only malformed frames have no data, and they are sorted out before.', [
    ['frame.data', 'true'],
    ['frame.data?.output_index', 'frame.data.output_index'],
    ['frame.data?.response', 'frame.data.response'],
    ['frame.data?.error', 'frame.data.error'],
  ]),
  ...alike(FRAMES, 'Every terminal has an end, and an error when and only when that is `failed`.', [
    ["frame.end ?? 'failed'", 'frame.end'],
    ["end === 'failed' && frame.error", "end === 'failed'"],
    ["end === 'failed' && frame.error", 'frame.error'],
  ]),
  ...alike(FRAMES, 'No id in the set is null.', [
    ['frame.responseId !== null && this.#ended.has(frame.responseId)', 'this.#ended.has(frame.responseId)'],
  ]),
  ...alike(FRAMES, 'Nothing before the first place is larger than an index.', [
    ['at > 0 && indexes[at - 1]! > index', 'indexes[at - 1]! > index'],
    ['at > 0', 'at >= 0'],
  ]),
  ...alike(FRAMES, 'An item is kept only of a frame that has one, and rewriting a frame leaves it its item.', [
    ['kept !== null && item !== null', 'kept !== null'],
    ['json === text', 'false'],
    ['turn.request.body.stream !== true && shown !== null', 'turn.request.body.stream !== true'],
  ]),
  ...alike(
    FRAMES,
    'Shown items are asked for only where the client gets one JSON answer: the other test spares memory.',
    [
      ['turn.request.body.stream !== true && shown !== null', 'true'],
      ['turn.request.body.stream !== true && shown !== null', 'shown !== null'],
      ['turn.request.body.stream !== true && own.shownItems.length > listed', 'own.shownItems.length > listed'],
    ],
  ),
  ...alike(FRAMES, 'A text with no member changed is the text.', [
    ['inResponse.size > 0', 'true'],
    ['inResponse.size > 0', 'inResponse.size >= 0'],
    ['changes.size === 0', 'false'],
  ]),
  ...alike(FRAMES, 'A list of output that was parsed stands in the text.', [
    ["membersOf(text).get('response')?.start", "membersOf(text).get('response').start"],
    ['place?.start', 'place.start'],
  ]),
  ...alike(FRAMES, 'A frame of this kind has a turn state, and it has it from its headers.', [
    ['frame.turnState', 'true'],
    ["memberText(text, 'headers') ?? ''", "memberText(text, 'headers')"],
  ]),
  ...alike(FENCE, 'A turn starts once, so its session is still at the epoch of its start while it is the active one.', [
    [
      's.owner_nonce = p_nonce and s.epoch = 1 and s.active_turn_id =',
      's.owner_nonce = p_nonce and s.active_turn_id =',
    ],
    [
      's.owner_nonce = c.nonce and s.epoch = c.epoch and s.active_turn_id =',
      's.owner_nonce = c.nonce and s.active_turn_id =',
    ],
  ]),
  ...alike(FENCE, 'An unnested null has no rows: the test spares a statement.', [
    [
      'o turn select t.*; if p_hashes is not null then insert into sh',
      'o turn select t.*; if true then insert into sh',
    ],
    ['::json); end if; if p_hashes is not null then insert into tu', '::json); end if; if true then insert into tu'],
    ['as hash; end if; if c.item_ids is not null then insert into tu', 'as hash; end if; if true then insert into tu'],
  ]),
  {
    file: 'src/transcript/provider-ids.ts',
    original: "'foreign'",
    mutant: "''",
    reason: 'A rule that is in no list allows nothing, as `foreign` does.',
  },
  ...alike('src/transcript/provider-ids.ts', 'The path is cut at its end in any case: the test spares work.', [
    ['path.length > LONGEST_PATH', 'false'],
    ['path.length > LONGEST_PATH', 'path.length >= LONGEST_PATH'],
  ]),
  ...alike('src/upstream/redact.ts', 'The test spares reading a frame in which there is nothing to take out.', [
    ['OF_A_TURN.test(text) && !MAY_QUOTE.test(text)', 'false'],
    ['!/openai-(?:organization|project)/i.test(text)', 'false'],
  ]),
  {
    file: 'src/upstream/redact.ts',
    original: 'true',
    mutant: 'false',
    reason: 'It tells whether the length of the body still holds, and a redacted answer never has one.',
  },
  {
    file: 'src/http/app.ts',
    original: 'query.size === 0',
    mutant: 'false',
    reason: 'An empty query is no part of the address that is called.',
  },
  ...alike('src/session/decide.ts', 'Without names nothing is found and nothing is missing: the test spares a read.', [
    ['references.length === 0 && owned.size === 0', 'false'],
    ['missing.size > 0', 'true'],
    ['missing.size > 0', 'missing.size >= 0'],
  ]),
  ...alike('src/session/decide.ts', 'The resolver ignores foreign names when the credential is the client’s own.', [
    ['credentialIsClients', 'false'],
    ['comparison === null || credentialIsClients', 'comparison === null'],
  ]),
];

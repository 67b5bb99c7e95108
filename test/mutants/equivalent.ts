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
const ITEMS = 'src/transcript/items.ts';
const PLANNER = 'src/transcript/planner.ts';
const READ = 'src/transcript/read.ts';

/** Mutants that do not count as survivors. Each must still exist, and its reason must hold for every caller. */
export const equivalents: readonly Equivalent[] = [
  {
    file: 'src/intake/pool.ts',
    original: "text.includes('\\ufffd')",
    mutant: 'true',
    reason: 'Null makes the thread decode the bytes itself: the result is the same, only later.',
  },
  {
    file: 'src/intake/again.ts',
    original: '!LASTING.has(name) || end - start <= LONG',
    mutant: '!LASTING.has(name)',
    reason:
      'Short members are then remembered too: what is read is the same, and remembering them costs more than it saves.',
  },
  {
    file: 'src/upstream/headers.ts',
    original: 'a! < b!',
    mutant: 'a! <= b!',
    reason: 'The names of one object differ from each other.',
  },
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
    ["membersOfResponse(text).get('output')?.start", "membersOfResponse(text).get('output').start"],
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
  // The planner: texts and hashes that are computed once, and conditions that only spare work.
  ...alike(READ, 'A hash, a chain or a place is computed once only to spare work: items do not change.', [
    [
      'this.#hash ??= this.#accepted?.[0] ?? itemHash(this.value)',
      'this.#hash = this.#accepted?.[0] ?? itemHash(this.value)',
    ],
    ['this.#accepted ??= acceptedOf(this.value)', 'this.#accepted = acceptedOf(this.value)'],
    ['hashes ??= list.map(({ hash }) => hash)', 'hashes = list.map(({ hash }) => hash)'],
    ['chain ??= chainOver(list)', 'chain = chainOver(list)'],
    ['places ??= plausiblePlaces(list, this.chain)', 'places = plausiblePlaces(list, this.chain)'],
    ['options.whole', 'true'],
    ['options.whole', 'false'],
    ['void item.accepted;', ''],
  ]),
  ...alike(READ, 'The first accepted hash of an item is its own.', [
    ['this.#accepted?.[0] ?? itemHash(this.value)', 'itemHash(this.value)'],
  ]),
  ...alike(ITEMS, 'A place that is known is the one that would be computed.', [
    [
      'known.get(count) ?? placeAfter(chain[count]!, items[count - 1]!.value)',
      'placeAfter(chain[count]!, items[count - 1]!.value)',
    ],
  ]),
  ...alike(ITEMS, 'A text has the hash of its UTF-8 bytes, however long it is.', [
    ['text.length < 65_536', 'true'],
    ['text.length < 65_536', 'false'],
    ['text.length < 65_536', 'text.length <= 65_536'],
  ]),
  ...alike(ITEMS, 'Forms of an item that are equal count once.', [
    ['hasOwnId', 'true'],
    ['item.id != null && !volatileIds.has(typeOf(item))', 'item.id != null'],
    ['item.id != null && !volatileIds.has(typeOf(item))', '!volatileIds.has(typeOf(item))'],
    ['writtenDecorations.some((name) => whole.includes(name))', 'true'],
  ]),
  ...alike(ITEMS, 'A member that is replaced by itself, or removed where it is missing, leaves the text as it is.', [
    [
      "'previous_response_id' in response && response.previous_response_id !== form.previousResponseId",
      "'previous_response_id' in response",
    ],
    ['!foreign && !hides', 'false'],
    ["typeOf(item) === 'reasoning' && 'encrypted_content' in item", "typeOf(item) === 'reasoning'"],
  ]),
  {
    file: 'src/session/planning.ts',
    original: 'output === null',
    mutant: 'false',
    reason: 'A missing text is parsed as the JSON value null, which is no list of items either.',
  },
  {
    file: PLANNER,
    original: 'named === null',
    mutant: 'false',
    reason: 'No content has the id null.',
  },
  {
    file: PLANNER,
    original: 'metadata && Object.hasOwn(metadata, TURN_STATE_HEADER)',
    mutant: 'metadata',
    reason: 'Metadata from which a missing member is removed is written as it was.',
  },
  ...alike('src/session/decide.ts', 'The resolver ignores foreign names when the credential is the client’s own.', [
    ['credentialIsClients', 'false'],
    ['comparison === null || credentialIsClients', 'comparison === null'],
  ]),
];

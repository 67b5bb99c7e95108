import { existsSync, readFileSync } from 'node:fs';
import { request } from 'undici';
import { describe, expect, it } from 'vitest';
import { type TestBridge, testBridge } from '../../../src/testing/index.ts';
import { namesIn, namesMade } from '../../../src/transcript/provider-ids.ts';
import type { Item } from '../../../src/transcript/types.ts';
import { type Declared, type Member, responsesApi } from '../../support/declarations.ts';

const FOREIGN = 'obj_of_another_tenant';
const declared = responsesApi();

/** A body built from the SDK's types that names a foreign object in one member. */
interface Site {
  /** The declaration and its member. */
  owner: string;
  member: string;
  value: unknown;
}

/** Members that hold ids although their names do not indicate it. */
const holdsIds = new Set(['container', 'conversation']);
const saysId = ({ name }: Member) => /(?:^|_)ids?$/.test(name) || holdsIds.has(name);

const takesString = (type: Declared): boolean => {
  if (type.kind === 'name') {
    const found = declared.resolve(type.name, type.within);
    return found !== null && takesString(found);
  }
  if (type.kind === 'union') return type.of.some(takesString);
  return type.kind === 'plain' ? type.name === 'string' : type.kind === 'literal' && typeof type.value === 'string';
};
const takesList = (type: Declared): boolean =>
  type.kind === 'list' ? takesString(type.of) : type.kind === 'union' && type.of.some(takesList);

/** Returns a minimal value of a type. */
function least(type: Declared): unknown {
  switch (type.kind) {
    case 'literal':
      return type.value;
    case 'list':
      return [];
    case 'plain':
      return type.name === 'number' ? 1 : type.name === 'boolean' ? true : type.name === 'string' ? 'text' : {};
    case 'union':
      return least(type.of[0]!);
    case 'name': {
      const found = declared.resolve(type.name, type.within);
      return found === null ? 'text' : least(found);
    }
    case 'object':
      return Object.fromEntries(
        type.members
          .filter(({ optional }) => !optional)
          .map(({ name, type: of }) => [name, saysId({ name } as Member) ? 'text' : least(of)]),
      );
  }
}

/** Yields every place below a type whose member name indicates ids. Recursive declarations are entered once. */
function* sites(type: Declared, owner: string, route: readonly string[]): Generator<Site> {
  switch (type.kind) {
    case 'list':
      for (const site of sites(type.of, owner, route)) yield { ...site, value: [site.value] };
      return;
    case 'union':
      for (const each of type.of) yield* sites(each, owner, route);
      return;
    case 'name': {
      const found = declared.resolve(type.name, type.within);
      const full = type.name.replace(/^ResponsesAPI\./, '');
      if (found !== null && !route.includes(full)) yield* sites(found, full, [...route, full]);
      return;
    }
    case 'object':
      for (const member of type.members) {
        const { name, type: of } = member;
        const key = name === '*' ? 'some' : name;
        // Other members are included only if they are required. Ids among them are omitted, so that exactly one id is foreign.
        const { id: _id, ...rest } = Object.fromEntries(
          Object.entries(least(type) as object).filter(
            ([other]) => !saysId({ name: other } as Member) || other === 'call_id',
          ),
        );
        if (saysId(member) && takesString(of)) yield { owner, member: name, value: { ...rest, [key]: FOREIGN } };
        if (saysId(member) && takesList(of)) yield { owner, member: name, value: { ...rest, [key]: [FOREIGN] } };
        for (const site of sites(of, owner, route)) yield { ...site, value: { ...rest, [key]: site.value } };
      }
      return;
    default:
  }
}

const TOP = 'ResponseCreateParamsBase';
const all = [...sites(declared.resolve(TOP)!, TOP, [TOP])].map(({ value, ...site }) => ({
  ...site,
  name: `${site.owner}.${site.member}`,
  body: { model: 'm', ...(value as Record<string, unknown>) },
}));

/** Ids of calls are paired within their input, and name nothing outside of it. */
const isCall = ({ member }: Site | (typeof all)[number]) => member === 'call_id' || member === 'caller_id';
/** Members checked against the responses of the scope, not against the objects that its turns made. */
const responses = new Map([
  ['ResponseCreateParamsBase.previous_response_id', 'bridge_session_expired'],
  ['ResponseCreateParams.PromptCacheOptions.comparison_response_id', 'bridge_foreign_object'],
  ['ResponseCreateParamsBase.conversation', 'bridge_session_expired'],
  ['ResponseConversationParam.id', 'bridge_session_expired'],
]);
/** Items that contain all their content: their ids are not looked up, and may come from elsewhere. */
const selfContained = [
  'ResponseCodeInterpreterToolCall.id',
  'ResponseCompactionItemParam.id',
  'ResponseConfigurationUpdateItemParam.id',
  'ResponseCustomToolCall.id',
  'ResponseCustomToolCallOutput.id',
  'ResponseFunctionToolCall.id',
  'ResponseInputItem.AdditionalTools.id',
  'ResponseInputItem.ApplyPatchCall.id',
  'ResponseInputItem.ApplyPatchCallOutput.id',
  'ResponseInputItem.CompactionTrigger.id',
  'ResponseInputItem.ComputerCallOutput.id',
  'ResponseInputItem.FunctionCallOutput.id',
  'ResponseInputItem.LocalShellCall.id',
  'ResponseInputItem.LocalShellCallOutput.id',
  'ResponseInputItem.McpApprovalRequest.id',
  'ResponseInputItem.McpListTools.id',
  'ResponseInputItem.Program.id',
  'ResponseInputItem.ProgramOutput.id',
  'ResponseInputItem.ShellCall.id',
  'ResponseInputItem.ShellCallOutput.id',
  'ResponseInputItem.ToolSearchCall.id',
  'ResponseOutputMessage.id',
  'ResponseToolSearchOutputItemParam.id',
];
const isFree = (site: (typeof all)[number]) => isCall(site) || selfContained.includes(site.name);
const named = all.filter((site) => !isFree(site));

describe('members of the SDK’s types that hold ids', () => {
  it('Only members that name content of the request itself are exempt from the ownership check', () => {
    const passing = all.filter(({ body }) => {
      const { owned, foreign } = namesIn(body);
      return owned.size === 0 && foreign === null;
    });
    const expected = [...selfContained, ...[...responses.keys()].filter((name) => /response_id$/.test(name))];
    expect([...new Set(passing.filter((site) => !isCall(site)).map(({ name }) => name))].sort()).toEqual(
      expected.sort(),
    );
    // A lower count would mean that the reader covers only a part of the declarations.
    expect(new Set(all.map(({ name }) => name)).size).toBeGreaterThan(80);
    for (const name of [
      'Tool.CodeInterpreter.container',
      'SkillReference.skill_id',
      'ResponsePrompt.id',
      'Tool.Mcp.tunnel_id',
    ])
      expect(named.map((site) => site.name)).toContain(name);
  });

  it('An unknown member beside any known id is refused as foreign at every depth', () => {
    for (const { body } of all) {
      const text = JSON.stringify(body).replaceAll(FOREIGN, 'call_1');
      for (const [member, value] of [
        ['future_id', 'x'],
        ['future', 'resp_1'],
        ['future', { ids: ['x'] }],
      ] as const) {
        const planted = JSON.parse(text.replace('"call_1"', JSON.stringify({ [member]: value }))) as Record<
          string,
          unknown
        >;
        const { owned, foreign } = namesIn(planted);
        expect([text, owned.size > 0 || foreign !== null]).toEqual([text, true]);
      }
    }
  });
});

const ROUTES = ['/responses', '/responses/compact', '/responses/input_tokens'];
const send = async (at: TestBridge, route: string, body: object, key: string) => {
  const answer = await request(`${at.url}/v1${route}`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', authorization: `Bearer ${key}` },
    body: JSON.stringify(body),
  });
  const text = await answer.body.text();
  return { status: answer.statusCode, text, error: text.startsWith('{') ? JSON.parse(text).error : null };
};

describe.each(ROUTES)('POST %s with foreign ids', (route) => {
  it('Every foreign id of the SDK’s types is refused under a shared credential', async () => {
    await using at = await testBridge({
      env: { HOLDFAST_UPSTREAM_KEY: 'sk-shared', HOLDFAST_API_KEYS: 'ann:key-ann,bob:key-bob' },
    });
    for (const { name, body } of named) {
      const { status, error, text } = await send(at, route, body, 'key-bob');
      const code = responses.get(name) ?? 'bridge_foreign_object';
      expect([name, status, error?.bridge_code]).toEqual([name, 400, code]);
      if (code === 'bridge_foreign_object') expect(error.param).toMatch(/^[\w$.[\]-]+$/);
      expect(text).not.toContain(FOREIGN);
    }
    expect(at.simulator.journal.of('create')).toEqual([]);
  });

  it('Every foreign id of the SDK’s types is accepted with the client’s own credential', async () => {
    await using at = await testBridge();
    for (const { name, body } of named) {
      const { error } = await send(at, route, body, 'sk-own');
      expect([name, error?.bridge_code]).toEqual([name, undefined]);
    }
  });
});

const FOLDER = process.env.RECORDINGS ?? new URL('../../../../shared/recordings/', import.meta.url).pathname;
const recorded = (file: string) =>
  readFileSync(`${FOLDER}/${file}`, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));

describe.skipIf(!existsSync(`${FOLDER}/streams.jsonl`))('recorded conversations', () => {
  type Event = { type: string; item?: Item; response?: { output: Item[] } };
  const outputOf = (events: Event[]) =>
    events.flatMap(({ type, item, response }) =>
      type === 'response.output_item.done' ? [item!] : type === 'response.completed' ? response!.output : [],
    );

  it('Recorded conversations name no object that their own turns did not make', () => {
    for (const { source, file, events } of recorded('streams.jsonl')) {
      const output = outputOf(events);
      const { owned, foreign } = namesIn({ input: output });
      const made = new Set(namesMade(output));
      expect([source, file, foreign, [...owned.keys()].filter((id) => !made.has(id))]).toEqual([
        source,
        file,
        null,
        [],
      ]);
    }
    for (const pair of recorded('pairs.jsonl')) {
      const made = new Set(namesMade([...pair.response.output, ...outputOf(pair['response-streaming'] ?? [])]));
      const { owned, foreign } = namesIn(pair['followup-request']);
      expect([pair.case, foreign, [...owned.keys()].filter((id) => !made.has(id))]).toEqual([pair.case, null, []]);
    }
  });
});

import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { type Operation, sharedOperations } from '../../src/http/operations.ts';
import { passFamilies } from '../../src/upstream/families.ts';
import { openSurface, SHARED, type Surface } from './support.ts';

let at: Surface;
beforeAll(async () => {
  at = await openSurface(SHARED);
});
afterAll(() => at.close());
beforeEach(() => {
  at.provider.calls.length = 0;
});

interface Listed {
  family: string;
  method: string;
  /** Path with `:own` and `:in`. */
  path: string;
  operation: Operation;
}

const all: Listed[] = Object.entries(sharedOperations).flatMap(([family, operations]) =>
  Object.entries(operations!).map(([call, operation]) => {
    const [method, path] = call.split(' ') as [string, string];
    return { family, method, path: `/${family}${path === '/' ? '' : path}`, operation };
  }),
);
const name = ({ method, path }: Listed) => `${method} ${path}`;

/** Returns a body in a form that the call accepts. */
function bodyFor({ body, as }: Operation): object | FormData | undefined {
  if (body === undefined) return undefined;
  if (as === 'form') {
    const form = new FormData();
    form.set('purpose', 'user_data');
    form.set('file', new Blob(['content of a file']), 'a.txt');
    return form;
  }
  return { name: 'a name', metadata: { note: 'file_in_metadata_is_content' }, store: true };
}

const call = (who: string, { method, path, operation }: Listed, own = 'obj_of_ann') =>
  at.call(
    who,
    method,
    `/v1${path.replace(':own', own).replaceAll(':in', 'child_1')}`,
    method === 'POST' ? bodyFor(operation) : undefined,
  );

const makers = all.filter(({ operation: { makes, at: member }, path }) => makes && !member && !path.includes(':own'));

describe.each(makers.map((each) => [name(each), each] as const))('%s under a shared credential', (_, maker) => {
  it('An object belongs to the tenant that made it, at once and for every call', async () => {
    const made = await call('ann', maker);
    expect([made.status, made.body.id]).toEqual([200, expect.stringMatching(/^[a-z]+_/)]);
    const id = String(made.body.id);
    const kind = maker.operation.makes!;
    const about = all.filter(({ path }) => path.startsWith(`/${kind}/:own`));
    expect(about.length).toBeGreaterThan(0);
    for (const each of about) {
      const before = at.provider.calls.length;
      const theirs = await call('bob', each, id);
      expect([name(each), theirs.status, theirs.body.error?.bridge_code]).toEqual([
        name(each),
        404,
        'bridge_not_found',
      ]);
      expect(theirs.text).not.toContain(id);
      expect(at.provider.calls).toHaveLength(before);
    }
    for (const each of about.filter(({ method }) => method !== 'DELETE')) {
      expect([name(each), (await call('ann', each, id)).status]).toEqual([name(each), 200]);
    }
    const remove = about.find(({ method, path }) => method === 'DELETE' && path === `/${kind}/:own`);
    if (remove) {
      expect((await call('ann', remove, id)).status).toBe(200);
      expect((await call('ann', remove, id)).body.error?.bridge_code).toBe('bridge_not_found');
    }
  });
});

it.each(all.filter(({ path }) => path.includes(':own')).map((each) => [name(each), each] as const))(
  '%s is answered alike for an object of another tenant and for none',
  async (_, each) => {
    const [unknown, foreign] = [await call('bob', each, 'obj_none'), await call('bob', each, 'obj_of_ann')];
    expect(unknown.body).toEqual(foreign.body);
    expect([unknown.status, unknown.body.error?.code]).toEqual([404, 'not_found']);
    expect(at.provider.calls).toEqual([]);
  },
);

describe('lists under a shared credential', () => {
  const lists = all.filter(({ operation }) => operation.lists);

  it.each(lists.map((each) => [name(each), each] as const))(
    '%s shows what its tenant made, page by page',
    async (_, list) => {
      const maker = makers.find(({ operation }) => operation.makes === list.operation.lists)!;
      const ids: string[] = [];
      for (let nth = 0; nth < 3; nth += 1) {
        ids.push(String((await call('ann', maker)).body.id));
        await call('bob', maker);
      }
      const page = async (query: string) => {
        const { status, text } = await at.call('ann', 'GET', `/v1${list.path}${query}`);
        return { status, ...(JSON.parse(text) as { data: { id: string }[]; has_more: boolean; last_id: string }) };
      };
      const first = await page('?limit=2');
      expect([first.data.map(({ id }) => id), first.has_more]).toEqual([ids.slice(1).reverse(), true]);
      const second = await page(`?limit=2&after=${first.last_id}`);
      expect(second.data.map(({ id }) => id)).toContain(ids[0]);
      expect((await page('?order=asc&limit=100')).data.map(({ id }) => id).slice(-3)).toEqual(ids);
      // What was deleted by another way disappears from the list.
      at.provider.objects.delete(`/${list.operation.lists}/${ids[2]}`);
      expect((await page('?limit=2')).data.map(({ id }) => id)).toEqual([ids[1]]);
      expect((await page('?limit=2')).data.map(({ id }) => id)).toEqual([ids[1], ids[0]]);
    },
  );

  it('A list whose parameters only the provider could apply, or whose cursor is foreign, is refused by name', async () => {
    const { body } = await at.call('bob', 'POST', '/v1/vector_stores', { name: 'x' });
    for (const [query, status, code] of [
      ['?purpose=batch', 403, 'bridge_shared_credential'],
      ['?after=vs_unknown', 400, 'bridge_foreign_object'],
      [`?after=${body.id}`, 400, 'bridge_foreign_object'],
    ] as const) {
      const answer = await at.call('ann', 'GET', `/v1/files${query}`);
      expect([query, answer.status, answer.body.error?.bridge_code]).toEqual([query, status, code]);
    }
  });
});

describe('bodies under a shared credential', () => {
  const naming: [call: string, body: (id: string) => object, param: string][] = [
    ['/vector_stores', (id) => ({ file_ids: [id] }), 'file_ids[0]'],
    ['/containers', (id) => ({ name: 'x', file_ids: [id] }), 'file_ids[0]'],
    ['/containers', (id) => ({ name: 'x', skills: [{ type: 'skill_reference', skill_id: id }] }), 'skills[0].skill_id'],
    [
      '/assistants',
      (id) => ({ tool_resources: { file_search: { vector_store_ids: [id] } } }),
      'tool_resources.file_search.vector_store_ids[0]',
    ],
    [
      '/threads',
      (id) => ({ messages: [{ role: 'user', content: 'hi', attachments: [{ file_id: id }] }] }),
      'messages[0].attachments[0].file_id',
    ],
    ['/threads/runs', (id) => ({ assistant_id: id }), 'assistant_id'],
    ['/videos', (id) => ({ prompt: 'x', input_reference: { file_id: id } }), 'input_reference.file_id'],
    ['/videos/edits', (id) => ({ prompt: 'x', video: { id } }), 'video.id'],
    ['/audio/speech', (id) => ({ input: 'x', voice: { id } }), 'voice.id'],
    ['/images/edits', (id) => ({ prompt: 'x', images: [{ file_id: id }] }), 'images[0].file_id'],
    [
      '/chat/completions',
      (id) => ({ messages: [{ role: 'user', content: [{ type: 'file', file: { file_id: id } }] }] }),
      'messages[0].content[0].file.file_id',
    ],
    ['/chat/completions', (id) => ({ messages: [{ role: 'assistant', audio: { id } }] }), 'messages[0].audio.id'],
    [
      '/conversations',
      (id) => ({ items: [{ role: 'user', content: [{ type: 'input_file', file_id: id }] }] }),
      'items[0].content[0].file_id',
    ],
    [
      '/responses/input_tokens',
      (id) => ({ input: 'x', tools: [{ type: 'file_search', vector_store_ids: [id] }] }),
      'tools[0].vector_store_ids[0]',
    ],
  ];

  it.each(naming)('A body for %s names objects of its own tenant only (%#)', async (path, body, param) => {
    const { body: made } = await at.call('ann', 'POST', '/v1/vector_stores', { name: 'x' });
    const id = String(made.id);
    const before = at.provider.calls.length;
    const theirs = await at.call('bob', 'POST', `/v1${path}`, body(id));
    expect([theirs.status, theirs.body.error]).toMatchObject([400, { bridge_code: 'bridge_foreign_object', param }]);
    expect(at.provider.calls).toHaveLength(before);
    expect((await at.call('ann', 'POST', `/v1${path}`, body(id))).status).toBe(200);
    expect(at.provider.calls.at(-1)!.text).toBe(JSON.stringify(body(id)));
  });

  it('Texts, tools and results of a chat are content, whatever they look like', async () => {
    const messages = [
      { role: 'system', content: 'file_1' },
      {
        role: 'user',
        content: [
          { type: 'text', text: 'resp_1' },
          { type: 'image_url', image_url: { url: 'https://x/file_1' } },
        ],
      },
      {
        role: 'assistant',
        tool_calls: [
          { id: 'call_0a1b2c3d4e5f6a7b8c9d', type: 'function', function: { name: 'f', arguments: '{"id":"file_1"}' } },
        ],
      },
      { role: 'tool', tool_call_id: 'call_0a1b2c3d4e5f6a7b8c9d', content: '{"vector_store_id":"vs_1"}' },
    ];
    const tools = [
      { type: 'function', function: { name: 'f', parameters: { properties: { file_id: { type: 'string' } } } } },
    ];
    const answer = await at.call('bob', 'POST', '/v1/chat/completions', {
      model: 'm',
      messages,
      tools,
      temperature: 0.5,
    });
    expect(answer.status).toBe(200);
  });

  it('A name in an unknown place of any body is refused', async () => {
    for (const { path, operation, method } of all.filter(
      ({ operation: { body, as }, path }) => body && as !== 'form' && !path.includes(':own'),
    )) {
      for (const body of [{ future: { thing_id: 'x' } }, { future: ['file_0a1b2c3d4e5f'] }]) {
        const {
          status,
          body: { error },
        } = await at.call('bob', method, `/v1${path}`, body);
        expect([path, operation.body, status, error?.bridge_code]).toEqual([
          path,
          operation.body,
          400,
          'bridge_foreign_object',
        ]);
      }
    }
    expect(at.provider.calls).toEqual([]);
  });

  it('A repeated member that matters is refused', async () => {
    const text = '{"name":"x","file_ids":[],"file_ids":["file_of_ann"]}';
    const { status, body } = await at.call('bob', 'POST', '/v1/vector_stores', text);
    expect([status, body.error?.bridge_code]).toEqual([400, 'bridge_foreign_object']);
  });
});

describe('forms under a shared credential', () => {
  const form = (...fields: [name: string, value: string | Blob][]) => {
    const made = new FormData();
    for (const [field, value] of fields) made.append(field, value as string);
    return made;
  };

  it('A form reaches the provider with its fields and files, in the bridge’s own writing', async () => {
    const content = new Blob(['a,b\r\n--x\r\n'], { type: 'text/csv' });
    const fields = form(
      ['purpose', 'user_data'],
      ['expires_after[anchor]', 'created_at'],
      ['expires_after[seconds]', '3600'],
    );
    fields.append('file', content, 'täble "1".csv');
    expect((await at.call('ann', 'POST', '/v1/files', fields)).status).toBe(200);
    const [sent] = at.provider.calls;
    expect(sent!.headers['content-type']).toMatch(/^multipart\/form-data; boundary=holdfast-/);
    const received = await new Response(Buffer.from(sent!.text, 'latin1'), {
      headers: { 'content-type': sent!.headers['content-type']! },
    }).formData();
    expect([...received.keys()]).toEqual(['purpose', 'expires_after[anchor]', 'expires_after[seconds]', 'file']);
    expect(received.get('purpose')).toBe('user_data');
    const file = received.get('file') as File;
    expect([await file.text(), file.type, file.name]).toEqual(['a,b\r\n--x\r\n', 'text/csv', 'täble "1".csv']);
  });

  it.each<[string, [string, string | Blob][], string]>([
    ['a field', [['input_reference[file_id]', 'file_of_ann']], 'input_reference.file_id'],
    [
      'a field after a file',
      [
        ['image', new Blob(['x'])],
        ['input_reference[file_id]', 'file_of_ann'],
      ],
      'input_reference.file_id',
    ],
    ['JSON in a field', [['input_reference', '{"file_id":"file_of_ann"}']], 'input_reference[1]'],
    ['a list', [['characters[][id]', 'char_of_ann']], 'characters[0].id'],
    ['a file in place of an id', [['characters[][id]', new Blob(['char_of_ann'])]], 'characters[0].id'],
    ['an unknown field', [['future_id', 'x']], 'future_id'],
    ['an unknown value', [['future', 'file_0a1b2c3d']], 'future'],
  ])('A form that names a foreign object in %s never reaches its end at the provider', async (_, fields, param) => {
    const answer = await at.call('bob', 'POST', '/v1/videos', form(['prompt', 'x'], ...fields));
    expect([answer.status, answer.body.error]).toMatchObject([400, { bridge_code: 'bridge_foreign_object', param }]);
    expect(at.provider.calls).toEqual([]);
  });

  it('A form that cannot be read is refused by name', async () => {
    const { body } = await at.call('bob', 'POST', '/v1/files', { purpose: 'x' });
    expect(body.error).toMatchObject({ bridge_code: 'bridge_unsupported_media_type' });
    expect(body.error!.message).toContain('multipart/form-data');
  });

  it('A form is refused where the call takes JSON only', async () => {
    const { status, body } = await at.call('bob', 'POST', '/v1/embeddings', form(['model', 'm'], ['input', 'x']));
    expect([status, body.error?.bridge_code]).toEqual([415, 'bridge_unsupported_media_type']);
    expect(at.provider.calls).toEqual([]);
  });
});

describe('calls whose objects nothing assigns to a tenant', () => {
  it.each([
    ['POST', '/v1/batches', 'A batch runs the requests in a file'],
    ['GET', '/v1/batches/batch_1', 'A batch runs'],
    ['POST', '/v1/evals', 'reads stored responses of everyone'],
    ['POST', '/v1/fine_tuning/jobs', 'fine-tuned model'],
    ['DELETE', '/v1/models/ft:gpt-4o:org::id', 'fine-tuned model'],
    ['GET', '/v1/organization/users', 'belongs to the operator'],
    ['POST', '/v1/agents', 'not known to reach only objects of its caller'],
    ['GET', '/v1/vector_stores/vs_1/future', 'not known'],
    ['PUT', '/v1/files', 'Use the method'],
  ])('%s %s is refused with the reason', async (method, path, reason) => {
    const { status, body } = await at.call('ann', method, path, method === 'POST' ? {} : undefined);
    if (method === 'PUT') expect([status, body.error?.bridge_code]).toEqual([405, 'bridge_method_not_allowed']);
    else {
      expect([status, body.error?.bridge_code]).toEqual([403, 'bridge_shared_credential']);
      expect(body.error!.message).toContain(reason);
    }
    expect(at.provider.calls).toEqual([]);
  });

  it('Every family is either in the table of calls or refused', async () => {
    for (const family of passFamilies) {
      if (sharedOperations[family]) continue;
      const { body } = await at.call('ann', 'GET', `/v1/${family}`);
      expect([family, body.error?.bridge_code]).toEqual([family, 'bridge_shared_credential']);
    }
  });
});

it('A stored completion belongs to its tenant, streamed or not; one that is not stored leaves no record', async () => {
  for (const stream of [false, true]) {
    const made = await at.call('ann', 'POST', '/v1/chat/completions', {
      model: 'm',
      messages: [],
      store: true,
      stream,
    });
    const id = /chatcmpl_\w+/.exec(made.text)![0];
    expect((await at.call('ann', 'GET', `/v1/chat/completions/${id}`)).status).toBe(200);
    expect((await at.call('bob', 'GET', `/v1/chat/completions/${id}`)).status).toBe(404);
    if (stream) expect(made.text.match(/^data: /gm)).toHaveLength(3);
  }
  const made = await at.call('ann', 'POST', '/v1/chat/completions', { model: 'm', messages: [] });
  expect((await at.call('ann', 'GET', `/v1/chat/completions/${made.body.id}`)).body.error?.bridge_code).toBe(
    'bridge_not_found',
  );
});

it('The file of a completed upload belongs to the tenant of the upload', async () => {
  const upload = await at.call('ann', 'POST', '/v1/uploads', {
    filename: 'a',
    purpose: 'user_data',
    bytes: 1,
    mime_type: 'text/plain',
  });
  const form = new FormData();
  form.set('data', new Blob(['x']));
  const part = await at.call('ann', 'POST', `/v1/uploads/${upload.body.id}/parts`, form);
  const complete = `/v1/uploads/${upload.body.id}/complete`;
  const theirs = await at.call('ann', 'POST', complete, { part_ids: ['part_of_bob'] });
  expect(theirs.body.error).toMatchObject({ bridge_code: 'bridge_foreign_object', param: 'part_ids[0]' });
  const done = await at.call('ann', 'POST', complete, { part_ids: [part.body.id] });
  const { id } = done.body.file as { id: string };
  expect((await at.call('ann', 'GET', `/v1/files/${id}/content`)).status).toBe(200);
  expect((await at.call('bob', 'GET', `/v1/files/${id}/content`)).status).toBe(404);
});

it('A cursor within an object’s own list must name an entry of that list', async () => {
  const { body } = await at.call('ann', 'POST', '/v1/conversations', {});
  const path = `/v1/conversations/${body.id}/items`;
  const item = await at.call('ann', 'POST', path, { items: [{ role: 'user', content: 'hi' }] });
  at.provider.objects.set(`/conversations/${body.id}/items/${item.body.id}`, item.body);
  expect((await at.call('ann', 'GET', `${path}?after=${item.body.id}`)).status).toBe(200);
  expect((await at.call('ann', 'GET', `${path}?after=msg_of_bob`)).body.error).toMatchObject({
    bridge_code: 'bridge_foreign_object',
    param: 'after',
  });
});

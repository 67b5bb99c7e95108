import type { PassBody } from '../transcript/pass-bodies.ts';
import type { PassFamily } from '../upstream/families.ts';

/** What is known of one call, for a credential shared by several tenants. */
export interface Operation {
  /** Name of the allowed content of its body, as JSON or as a form. Default: the call has none. */
  body?: PassBody;
  /** Form in which the body is accepted; default JSON. */
  as?: 'json' | 'form' | 'either';
  /** Kind of the objects that its answer names as made. */
  makes?: string;
  /** Member of the answer that holds the made object, if it is not the answer itself. */
  at?: string;
  /** The object is made only when the body has `store: true`; otherwise the provider does not keep it. */
  onlyStored?: true;
  /** Kind of the objects that it lists. */
  lists?: string;
}

/** Family of calls that is served: those that can be passed on, and the conversations of the Responses API. */
export type Family = PassFamily | 'conversations';

/**
 * Calls that pass under a shared credential, by family, method and path. Any other call is refused there: nothing shows that
 * it reaches only objects of its caller.
 *
 * `:own` is the id of an object that the caller's scope must have made. `:in` is resolved by the provider below that object.
 */
export const sharedOperations: Partial<Record<Family, Readonly<Record<string, Operation>>>> = {
  conversations: {
    'POST /': { body: 'conversation', makes: 'conversations' },
    'GET /:own': {},
    'POST /:own': { body: 'conversation' },
    'DELETE /:own': {},
    'GET /:own/items': {},
    'POST /:own/items': { body: 'conversation' },
    'GET /:own/items/:in': {},
    'DELETE /:own/items/:in': {},
  },
  chat: {
    'POST /completions': { body: 'chat', makes: 'chat/completions', onlyStored: true },
    'GET /completions': { lists: 'chat/completions' },
    'GET /completions/:own': {},
    'POST /completions/:own': { body: 'plain' },
    'DELETE /completions/:own': {},
    'GET /completions/:own/messages': {},
  },
  completions: { 'POST /': { body: 'completion' } },
  embeddings: { 'POST /': { body: 'embedding' } },
  moderations: { 'POST /': { body: 'moderation' } },
  files: {
    'POST /': { body: 'file', as: 'form', makes: 'files' },
    'GET /': { lists: 'files' },
    'GET /:own': {},
    'DELETE /:own': {},
    'GET /:own/content': {},
  },
  uploads: {
    'POST /': { body: 'upload', makes: 'uploads' },
    'POST /:own/parts': { body: 'plain', as: 'form', makes: 'uploads/parts' },
    'POST /:own/complete': { body: 'uploadEnd', makes: 'files', at: 'file' },
    'POST /:own/cancel': {},
  },
  vector_stores: {
    'POST /': { body: 'store', makes: 'vector_stores' },
    'GET /': { lists: 'vector_stores' },
    'GET /:own': {},
    'POST /:own': { body: 'store' },
    'DELETE /:own': {},
    'POST /:own/search': { body: 'search' },
    'POST /:own/files': { body: 'storeFile' },
    'GET /:own/files': {},
    'GET /:own/files/:in': {},
    'POST /:own/files/:in': { body: 'storeFile' },
    'DELETE /:own/files/:in': {},
    'GET /:own/files/:in/content': {},
    'POST /:own/file_batches': { body: 'storeFile' },
    'GET /:own/file_batches/:in': {},
    'POST /:own/file_batches/:in/cancel': {},
    'GET /:own/file_batches/:in/files': {},
  },
  images: {
    'POST /generations': { body: 'image' },
    'POST /edits': { body: 'image', as: 'either' },
    'POST /variations': { body: 'image', as: 'form' },
  },
  audio: {
    'POST /speech': { body: 'speech' },
    'POST /transcriptions': { body: 'transcription', as: 'form' },
    'POST /translations': { body: 'transcription', as: 'form' },
    'POST /voices': { body: 'voice', as: 'form', makes: 'audio/voices' },
    'DELETE /voices/:own': {},
    'POST /voice_consents': { body: 'voice', as: 'form', makes: 'audio/voice_consents' },
    'GET /voice_consents': { lists: 'audio/voice_consents' },
    'GET /voice_consents/:own': {},
    'POST /voice_consents/:own': { body: 'plain' },
    'DELETE /voice_consents/:own': {},
  },
  videos: {
    'POST /': { body: 'video', as: 'either', makes: 'videos' },
    'GET /': { lists: 'videos' },
    'POST /characters': { body: 'video', as: 'either', makes: 'videos/characters' },
    'GET /characters/:own': {},
    'POST /edits': { body: 'video', as: 'either', makes: 'videos' },
    'POST /extensions': { body: 'video', as: 'either', makes: 'videos' },
    'GET /:own': {},
    'DELETE /:own': {},
    'GET /:own/content': {},
    'POST /:own/remix': { body: 'video', as: 'either', makes: 'videos' },
  },
  containers: {
    'POST /': { body: 'container', makes: 'containers' },
    'GET /': { lists: 'containers' },
    'GET /:own': {},
    'DELETE /:own': {},
    'POST /:own/files': { body: 'containerFile', as: 'either', makes: 'containers/files' },
    'GET /:own/files': {},
    'GET /:own/files/:in': {},
    'DELETE /:own/files/:in': {},
    'GET /:own/files/:in/content': {},
  },
  skills: {
    'POST /': { body: 'skill', as: 'either', makes: 'skills' },
    'GET /': { lists: 'skills' },
    'GET /:own': {},
    'POST /:own': { body: 'skill' },
    'DELETE /:own': {},
    'GET /:own/content': {},
    'POST /:own/versions': { body: 'skill', as: 'either' },
    'GET /:own/versions': {},
    'GET /:own/versions/:in': {},
    'DELETE /:own/versions/:in': {},
    'GET /:own/versions/:in/content': {},
  },
  assistants: {
    'POST /': { body: 'assistant', makes: 'assistants' },
    'GET /': { lists: 'assistants' },
    'GET /:own': {},
    'POST /:own': { body: 'assistant' },
    'DELETE /:own': {},
  },
  threads: {
    'POST /': { body: 'thread', makes: 'threads' },
    'POST /runs': { body: 'run', makes: 'threads' },
    'GET /:own': {},
    'POST /:own': { body: 'thread' },
    'DELETE /:own': {},
    'POST /:own/messages': { body: 'threadMessage' },
    'GET /:own/messages': {},
    'GET /:own/messages/:in': {},
    'POST /:own/messages/:in': { body: 'plain' },
    'DELETE /:own/messages/:in': {},
    'POST /:own/runs': { body: 'run' },
    'GET /:own/runs': {},
    'GET /:own/runs/:in': {},
    'POST /:own/runs/:in': { body: 'plain' },
    'POST /:own/runs/:in/cancel': {},
    'POST /:own/runs/:in/submit_tool_outputs': { body: 'toolOutputs' },
    'GET /:own/runs/:in/steps': {},
    'GET /:own/runs/:in/steps/:in': {},
  },
};

/** Families without a call that passes under a shared credential, with the reason. */
const reasons: ReadonlyMap<Family | 'models', string> = new Map([
  ['batches', 'A batch runs the requests in a file, and a file is not checked.'],
  ['fine_tuning', 'A fine-tuned model can be used and listed by everyone under the credential.'],
  ['evals', 'An evaluation reads stored responses of everyone under the credential.'],
  ['models', 'A fine-tuned model belongs to everyone under the credential.'],
  ['organization', 'The administration of the account belongs to the operator.'],
  ['projects', 'The administration of the account belongs to the operator.'],
]);

/** Returns why a call of the family is refused under a shared credential. */
export const reasonOf = (family: Family | 'models'): string =>
  reasons.get(family) ?? 'It is not known to reach only objects of its caller.';

interface Compiled {
  method: string;
  pieces: readonly string[];
  operation: Operation;
}

const compiled = new Map<string, Compiled[]>(
  Object.entries(sharedOperations).map(([family, operations]) => [
    family,
    Object.entries(operations).map(([call, operation]) => {
      const [method, path] = call.split(' ') as [string, string];
      return { method, pieces: path.split('/').filter((piece) => piece !== ''), operation };
    }),
  ]),
);

/**
 * Returns the call that passes under a shared credential.
 *
 * @param pieces decoded segments of the path below the family
 * @returns the call with the id that must belong to the caller's scope, if any; null for a call that does not pass
 */
export function operationOf(
  family: Family,
  method: string,
  pieces: readonly string[],
): { operation: Operation; own: string | null; ends: boolean } | null {
  for (const each of compiled.get(family) ?? []) {
    if (each.method !== method || each.pieces.length !== pieces.length) continue;
    if (!each.pieces.every((piece, at) => piece.startsWith(':') || piece === pieces[at])) continue;
    const at = each.pieces.indexOf(':own');
    return { operation: each.operation, own: at < 0 ? null : pieces[at]!, ends: at === each.pieces.length - 1 };
  }
  return null;
}

import { pipeline, Readable, Transform } from 'node:stream';
import { BridgeError } from '../errors.ts';
import { memberText, scanMembers, withMembers } from '../json.ts';
import { collectAnswer } from './answer.ts';
import { namesCode } from './error-codes.ts';
import { normaliseError } from './errors.ts';
import { parseFrame } from './frames.ts';
import type { DialResult, UpstreamAnswer, UpstreamConnection, UpstreamTransport } from './port.ts';
import { isApiError } from './refusal.ts';

/** A refusal of the shared credential, as the log may hold it. */
export interface CredentialRefusal {
  status: number;
  /** A code that OpenAI's API is known to use; null for anything else. */
  code: string | null;
}

export interface DiscretionOptions {
  /** The credential that clients do not know. */
  key: string;
  onRefused(refusal: CredentialRefusal): void;
}

const REDACTED = '[redacted]';
/** A shorter key is no secret, and leaving it out would change content. */
const SHORTEST_KEY = 8;

/**
 * Keys, whole or masked, and the names of an account's parts, as error texts quote them. A masked word is looked for from
 * its beginning only: the time is linear in the length of a text, whatever an upstream sends.
 */
const QUOTED =
  /\b(?:sk|rk|pk|sess)-[\w*.\u2026-]{3,}[\w*\u2026-]|(?<![\w*\u2022-])(?=[\w*\u2022-]*?[*\u2022]{3})[\w*\u2022-]+|\b(?:org|proj|user|acct)[-_](?=[A-Za-z]*\d)[A-Za-z0-9]{8,}\b/g;

/** Headers that say whose account it is. */
const ofAccount = new Set(['openai-organization', 'openai-project', 'www-authenticate']);

/** Most that is read of a refusal, bytes. */
const REFUSAL_BYTES = 1024 * 1024;

/** An upstream status that is about the credential or what it may do. */
export const refusesCredential = (status: number): boolean => status === 401 || status === 403;

function refusalError({ status, code }: CredentialRefusal): BridgeError {
  const said = code === null ? `${status}` : `${status} ${code}`;
  return new BridgeError('bridge_upstream_credential', { detail: `The upstream said: ${said}.` });
}

function refusalOf(given: unknown, status: number): CredentialRefusal {
  const { code } = normaliseError(given);
  return { status, code: code !== null && namesCode(code) ? code : null };
}

/**
 * The answer that a client gets in place of an upstream's 401 or 403 to a credential that is not its own. Upstreams quote
 * parts of the key in it.
 */
export function instead(answer: UpstreamAnswer): UpstreamAnswer {
  const error = refusalError(refusalOf(answer, answer.status));
  const headers = { 'content-type': 'application/json', 'x-should-retry': 'false' };
  return { status: error.status, headers, body: Buffer.from(JSON.stringify(error.envelope())) };
}

/**
 * A transport for a credential that several clients share and none of them knows: nothing that comes back shows it. Its
 * text is left out of every frame, body and header; an upstream's 401 and 403 are replaced by `bridge_upstream_credential`,
 * since they quote it in parts; other errors lose what looks like a key, an organisation or a project.
 */
export function createDiscreetTransport(inner: UpstreamTransport, options: DiscretionOptions): UpstreamTransport {
  const { key, onRefused } = options;
  const secret = key.length < SHORTEST_KEY ? null : key;
  const escaped = JSON.stringify(key).slice(1, -1);

  const withoutKey = (text: string): string => {
    if (secret === null) return text;
    const plain = text.includes(secret) ? text.replaceAll(secret, REDACTED) : text;
    return escaped !== secret && plain.includes(escaped) ? plain.replaceAll(escaped, REDACTED) : plain;
  };
  const withoutQuotes = (text: string) => withoutKey(text).replace(QUOTED, REDACTED);
  const headersWithout = (headers: Record<string, string>) =>
    Object.fromEntries(
      Object.entries(headers).flatMap(([name, value]) =>
        ofAccount.has(name.toLowerCase()) ? [] : [[name, withoutKey(value)]],
      ),
    );

  const discreetAnswer = (answer: UpstreamAnswer): UpstreamAnswer => {
    if (refusesCredential(answer.status)) {
      onRefused(refusalOf(answer, answer.status));
      return instead(answer);
    }
    const body = Buffer.from(withoutQuotes(answer.body.toString('utf8')));
    const { 'content-length': _length, ...headers } = headersWithout(answer.headers);
    return { ...answer, headers, body };
  };

  /** The refusal of an upgrade that comes from something on the way keeps its status: it says that HTTP may pass. */
  const discreetRefusal = (answer: UpstreamAnswer): UpstreamAnswer => {
    if (!refusesCredential(answer.status) || isApiError(answer)) return discreetAnswer(answer);
    return { status: answer.status, headers: { 'content-type': 'text/plain' }, body: Buffer.from('Refused.') };
  };

  const discreetFrame = (given: string): string => {
    const text = withoutAccount(withoutKey(given));
    if (!/"(?:error|detail|message)"\s*:\s*[{"[]/.test(text)) return text;
    const { kind, error } = parseFrame(text);
    if (error === null) return text;
    const refused = refusesCredential(error.status) ? refusalError(refusalOf(error, error.status)) : null;
    if (refused) onRefused(refusalOf(error, error.status));
    if (kind === 'error') {
      if (!refused) return withoutQuotes(text);
      const headers = { 'x-should-retry': 'false' };
      return JSON.stringify({ type: 'error', status: refused.status, error: refused.envelope().error, headers });
    }
    const own = refused && JSON.stringify({ code: refused.code, message: refused.message });
    const changed = (holder: string) => {
      const said = memberText(holder, 'error');
      return said === null || said === 'null'
        ? holder
        : withMembers(holder, new Map([['error', own ?? withoutQuotes(said)]]));
    };
    const response = memberText(text, 'response');
    return changed(response === null ? text : withMembers(text, new Map([['response', changed(response)]])));
  };

  /** A connection whose reader is shown nothing of the credential. */
  const discreetConnection = (connection: UpstreamConnection): UpstreamConnection => ({
    kind: connection.kind,
    get open() {
      return connection.open;
    },
    attach(handlers) {
      const { refused } = handlers;
      connection.attach({
        frame: (text) => handlers.frame(discreetFrame(text)),
        ...(refused && { refused: (answer: UpstreamAnswer) => refused(discreetAnswer(answer)) }),
        closed: (info) => handlers.closed({ ...info, reason: withoutKey(info.reason) }),
      });
    },
    send: (frame) => connection.send(frame),
    pause: () => connection.pause(),
    resume: () => connection.resume(),
    close: (code, reason) => connection.close(code, reason),
  });

  return {
    async dial(request): Promise<DialResult> {
      const result = await inner.dial(request);
      switch (result.kind) {
        case 'open':
          return {
            ...result,
            headers: headersWithout(result.headers),
            connection: discreetConnection(result.connection),
          };
        case 'refused':
          return { ...result, answer: discreetRefusal(result.answer) };
        case 'failed':
          return { ...result, reason: withoutKey(result.reason) };
      }
    },
    exchange: (request) => discreetConnection(inner.exchange(request)),
    async call(request) {
      const answer = await inner.call(request);
      const headers = headersWithout(answer.headers);
      if (answer.status >= 200 && answer.status < 400)
        return {
          ...answer,
          headers,
          body: secret === null ? answer.body : pipeline(answer.body, without(secret), () => {}),
        };
      const collector = collectAnswer(answer.status, headers, REFUSAL_BYTES);
      for await (const chunk of answer.body as AsyncIterable<Buffer>) if (!collector.push(chunk)) break;
      const shown = discreetAnswer(collector.answer(true));
      return { ...shown, body: Readable.from([shown.body]) };
    },
    shutdown: () => inner.shutdown(),
  };
}

/** A frame, whatever it holds, without the headers in it that say whose account it is. */
function withoutAccount(text: string): string {
  if (!/openai-(?:organization|project)/i.test(text)) return text;
  const headers = memberText(text, 'headers');
  const names = headers === null ? [] : scanMembers(headers).map(({ name }) => name);
  const found = names.filter((name) => ofAccount.has(name.toLowerCase()));
  if (headers === null || found.length === 0) return text;
  return withMembers(text, new Map([['headers', withMembers(headers, new Map(found.map((name) => [name, null])))]]));
}

/** A stream of bytes without a text, wherever its pieces are cut. Only what may be its beginning waits. */
function without(secret: string): Transform {
  let kept = '';
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const text = (kept + chunk.toString('latin1')).replaceAll(secret, REDACTED);
      let length = Math.min(secret.length - 1, text.length);
      while (length > 0 && !secret.startsWith(text.slice(text.length - length))) length -= 1;
      kept = text.slice(text.length - length);
      done(null, Buffer.from(text.slice(0, text.length - length), 'latin1'));
    },
    flush(done) {
      done(null, Buffer.from(kept, 'latin1'));
    },
  });
}

import { pipeline, Readable, Transform } from 'node:stream';
import { BridgeError } from '../errors.ts';
import { SHOULD_RETRY_HEADER } from '../headers.ts';
import { memberText, scanMembers, withMembers } from '../json.ts';
import { collectAnswer, isApiError, namesCode, normaliseError, refusalFrame } from './errors.ts';
import { parseFrame } from './frames.ts';
import type {
  ConnectionEnd,
  ConnectionHandlers,
  DialRequest,
  DialResult,
  UpstreamAnswer,
  UpstreamConnection,
  UpstreamTransport,
} from './port.ts';

/** Refusal of the shared credential, reduced to what may be logged. */
export interface CredentialRefusal {
  status: number;
  /** Error code if OpenAI's API is known to use it; null for any other. */
  code: string | null;
}

interface RedactionOptions {
  /** Shared credential, unknown to clients. */
  key: string;
  onRefused(refusal: CredentialRefusal): void;
}

const REDACTED = '[redacted]';
/** Shortest key that is redacted, in characters: a shorter one is no secret, and redacting it would change content. */
const SHORTEST_KEY = 8;

/**
 * Matches keys, whole or masked, and names of parts of an account, as error texts quote them. A masked word is matched from
 * its start only, so that the time stays linear in the length of any upstream text.
 */
const QUOTED =
  /\b(?:sk|rk|pk|sess)-[\w*.\u2026-]{3,}[\w*\u2026-]|(?<![\w*\u2022-])(?=[\w*\u2022-]*?[*\u2022]{3})[\w*\u2022-]+|\b(?:org|proj|user|acct)[-_](?=[A-Za-z]*\d)[A-Za-z0-9]{8,}\b/g;

/** Matches events of a turn, the only ones that need not be parsed to know that they are no error. */
const OF_A_TURN = /"type"\s*:\s*"response\./;
/** Matches members that may hold the text of an error. */
const MAY_QUOTE = /"(?:error|detail|message)"\s*:\s*[{"[]/;

/** Headers that identify the account. */
const ofAccount = new Set(['openai-organization', 'openai-project', 'www-authenticate']);

/** Most bytes read of a refusal. */
const REFUSAL_BYTES = 1024 * 1024;

/** Returns whether an upstream status concerns the credential or its permissions. */
export const refusesCredential = (status: number): boolean => status === 401 || status === 403;

function refusalError({ status, code }: CredentialRefusal): BridgeError {
  const quoted = code === null ? `${status}` : `${status} ${code}`;
  return new BridgeError('bridge_upstream_credential', { detail: `The upstream answered ${quoted}.` });
}

function refusalOf(given: unknown, status: number): CredentialRefusal {
  const { code } = normaliseError(given);
  return { status, code: namesCode(code) ? code : null };
}

/**
 * Returns the answer that replaces an upstream's 401 or 403 to a credential that is not the client's own. Upstreams quote
 * parts of the key in such answers.
 */
export function credentialRefusalAnswer(answer: UpstreamAnswer): UpstreamAnswer {
  const error = refusalError(refusalOf(answer, answer.status));
  const headers = { 'content-type': 'application/json', [SHOULD_RETRY_HEADER]: 'false' };
  return { status: error.status, headers, body: Buffer.from(JSON.stringify(error.envelope())) };
}

/**
 * Wraps a transport so that each request with a credential that its client does not know is redacted with that credential.
 *
 * @param onRefused called with each refusal of such a credential
 */
export function createHidingTransport(
  inner: UpstreamTransport,
  onRefused: (refusal: CredentialRefusal, key: string) => void,
): UpstreamTransport {
  /** The one of the last credential: idle connections with the same credential then share it. */
  let last: { key: string; transport: UpstreamTransport } | null = null;
  const through = ({ hidden, headers }: Pick<DialRequest, 'hidden' | 'headers'>) => {
    if (!hidden) return inner;
    const key = (headers.authorization ?? '').replace(/^Bearer /, '');
    if (last?.key !== key) {
      const transport = createRedactingTransport(inner, { key, onRefused: (refusal) => onRefused(refusal, key) });
      last = { key, transport };
    }
    return last.transport;
  };
  return {
    dial: (request) => through(request).dial(request),
    exchange: (request) => through(request).exchange(request),
    call: (request) => through(request).call(request),
    shutdown: () => inner.shutdown(),
  };
}

/**
 * Wraps a transport whose credential is shared by several clients and known to none of them, so that nothing received
 * reveals it. The key is removed from every frame, body and header. Upstream answers of 401 and 403 are replaced by
 * `bridge_upstream_credential`, since they quote parts of the key. Other errors lose everything that looks like a key, an
 * organisation or a project.
 */
export function createRedactingTransport(inner: UpstreamTransport, options: RedactionOptions): UpstreamTransport {
  const { key, onRefused } = options;
  const secret = key.length < SHORTEST_KEY ? null : key;
  /** The key as it is, and as it stands in JSON. */
  const secrets = new Set(secret === null ? [] : [secret, JSON.stringify(secret).slice(1, -1)]);

  const withoutKey = (text: string): string => {
    let left = text;
    for (const each of secrets) left = left.replaceAll(each, REDACTED);
    return left;
  };
  const withoutQuotes = (text: string) => withoutKey(text).replace(QUOTED, REDACTED);
  const headersWithout = (headers: Record<string, string>) =>
    Object.fromEntries(
      Object.entries(headers).flatMap(([name, value]) =>
        ofAccount.has(name.toLowerCase()) ? [] : [[name, withoutKey(value)]],
      ),
    );

  const redactAnswer = (answer: UpstreamAnswer): UpstreamAnswer => {
    if (refusesCredential(answer.status)) {
      onRefused(refusalOf(answer, answer.status));
      return credentialRefusalAnswer(answer);
    }
    const body = Buffer.from(withoutQuotes(answer.body.toString('utf8')));
    const { 'content-length': _length, ...headers } = headersWithout(answer.headers);
    return { ...answer, headers, body };
  };

  /** Keeps the status of a refused upgrade that comes from an intermediary: it shows that HTTP may still work. */
  const redactRefusal = (answer: UpstreamAnswer): UpstreamAnswer => {
    if (!refusesCredential(answer.status) || isApiError(answer)) return redactAnswer(answer);
    return { status: answer.status, headers: { 'content-type': 'text/plain' }, body: Buffer.from('Refused.') };
  };

  const redactFrame = (given: string): string => {
    const text = withoutAccount(withoutKey(given));
    if (OF_A_TURN.test(text) && !MAY_QUOTE.test(text)) return text;
    const { kind, error } = parseFrame(text);
    if (error === null) return text;
    const refused = refusesCredential(error.status) ? refusalError(refusalOf(error, error.status)) : null;
    if (refused) onRefused(refusalOf(error, error.status));
    if (kind === 'error') {
      if (!refused) return withoutQuotes(text);
      const headers = { [SHOULD_RETRY_HEADER]: 'false' };
      return JSON.stringify({ type: 'error', status: refused.status, error: refused.envelope().error, headers });
    }
    const own = refused && JSON.stringify({ code: refused.code, message: refused.message });
    const changed = (holder: string) => {
      const quoted = memberText(holder, 'error');
      return quoted === null || quoted === 'null'
        ? holder
        : withMembers(holder, new Map([['error', own ?? withoutQuotes(quoted)]]));
    };
    const response = memberText(text, 'response');
    return changed(response === null ? text : withMembers(text, new Map([['response', changed(response)]])));
  };

  const redaction: Redaction = { frame: redactFrame, answer: redactAnswer, text: withoutKey };

  return {
    async dial(request): Promise<DialResult> {
      const result = await inner.dial(request);
      switch (result.kind) {
        case 'open':
          return {
            ...result,
            headers: headersWithout(result.headers),
            connection: new RedactedConnection(result.connection, redaction),
          };
        case 'refused':
          return { ...result, answer: redactRefusal(result.answer) };
        case 'failed':
          return { ...result, reason: withoutKey(result.reason) };
      }
    },
    exchange: (request) => new RedactedConnection(inner.exchange(request), redaction),
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
      const shown = redactAnswer(collector.answer(true));
      return { ...shown, body: Readable.from([shown.body]) };
    },
    shutdown: () => inner.shutdown(),
  };
}

/** Removes one credential from what is received. */
interface Redaction {
  frame(text: string): string;
  answer(answer: UpstreamAnswer): UpstreamAnswer;
  text(text: string): string;
}

/** A connection whose reader sees nothing of the credential. */
class RedactedConnection implements UpstreamConnection, ConnectionHandlers {
  readonly #inner: UpstreamConnection;
  readonly #redaction: Redaction;
  #reader: ConnectionHandlers | null = null;

  constructor(inner: UpstreamConnection, redaction: Redaction) {
    this.#inner = inner;
    this.#redaction = redaction;
  }

  get kind() {
    return this.#inner.kind;
  }

  get open(): boolean {
    return this.#inner.open;
  }

  attach(reader: ConnectionHandlers): void {
    this.#reader = reader;
    this.#inner.attach(this);
  }

  send(frame: string): boolean {
    return this.#inner.send(frame);
  }

  pause(): void {
    this.#inner.pause();
  }

  resume(): void {
    this.#inner.resume();
  }

  close(code?: number, reason?: string): void {
    this.#inner.close(code, reason);
  }

  // What the inner connection delivers.

  frame(text: string): void {
    this.#reader?.frame(this.#redaction.frame(text));
  }

  refused(answer: UpstreamAnswer): void {
    const redacted = this.#redaction.answer(answer);
    if (this.#reader?.refused) this.#reader.refused(redacted);
    else this.#reader?.frame(refusalFrame(redacted));
  }

  closed(info: ConnectionEnd): void {
    this.#reader?.closed({ ...info, reason: this.#redaction.text(info.reason) });
  }
}

/** Removes the headers that identify the account from a frame, whatever else it holds. */
function withoutAccount(text: string): string {
  if (!/openai-(?:organization|project)/i.test(text)) return text;
  const headers = memberText(text, 'headers');
  if (headers === null) return text;
  const names = scanMembers(headers).map(({ name }) => name);
  const found = names.filter((name) => ofAccount.has(name.toLowerCase()));
  return withMembers(text, new Map([['headers', withMembers(headers, new Map(found.map((name) => [name, null])))]]));
}

/** Creates a stream that removes a text, however the chunks are cut. Only a possible start of the text is held back. */
function without(secret: string): Transform {
  let kept = '';
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      const text = (kept + chunk.toString('latin1')).replaceAll(secret, REDACTED);
      let length = Math.min(secret.length, text.length);
      while (!secret.startsWith(text.slice(text.length - length))) length -= 1;
      kept = text.slice(text.length - length);
      done(null, Buffer.from(text.slice(0, text.length - length), 'latin1'));
    },
    flush(done) {
      done(null, Buffer.from(kept, 'latin1'));
    },
  });
}

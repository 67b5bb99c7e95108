import { createHmac } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { type Config, ConfigError, isSendable, upstreamUrlOf } from './config.ts';
import { BridgeError } from './errors.ts';
import { createAuthentication } from './http/app.ts';
import type { Log } from './log.ts';
import type { Outcome } from './resolve/types.ts';
import { pathOf, type Step } from './runtime/index.ts';
import { type Caller, type TurnRequest, tenantOf } from './session/port.ts';
import type { TurnLine } from './session/turn.ts';
import type { Clock } from './system.ts';
import { isForwardable } from './upstream/headers.ts';
import { MOST_NAMED } from './upstream/lanes.ts';
import type { UpstreamTarget } from './upstream/port.ts';
import { upstreamId } from './worker.ts';

/** Tokens of a turn, as the provider counted them. */
export interface TurnTokens {
  input: number;
  /** Part of `input` that came from the provider's cache. */
  cached: number;
  output: number;
  /** Part of `output` that was reasoning. */
  reasoning: number;
  total: number;
}

/** A turn whose client has its answer. Times are in milliseconds from the arrival of the request. */
export interface TurnReport {
  /** Id of the request, as in `x-request-id`. */
  request: string;
  turn: string;
  /** Session that ran the turn; null when it reached none, or ran at another worker. */
  session: string | null;
  /** Worker that reports it. */
  worker: string;
  /** Tenant that `authenticate` or the API key names; null where there are none. */
  tenant: string | null;
  /** Model that the request names. */
  model: string | null;
  /** Id of the upstream. */
  upstream: string;
  /** The decision, as in `x-holdfast-outcome`. A forwarded turn is reported by both workers; the owner's report has `tokens`. */
  outcome: Outcome;
  /** How the turn ended: `completed`, `incomplete`, `failed`, `cancelled` or `lost`. */
  terminal: string;
  /** `bridge_code` of the error with which the bridge ended the turn; null for any other end. */
  fault: string | null;
  /** Status of the provider's error; null when it reported none. */
  upstreamStatus: number | null;
  /** Id under which the provider knows the request. */
  upstreamRequest: string | null;
  /** What was sent upstream: `delta` or `full`; null when nothing was. */
  form: string | null;
  /** Until the frame was sent. */
  heldMs: number | null;
  /** Until the provider's first event. */
  firstEventMs: number | null;
  /** Until the client had its answer. */
  totalMs: number;
  bytesFromClient: number;
  bytesSent: number;
  tokens: TurnTokens | null;
}

/** A session has changed its state. */
export interface SessionChange {
  session: string;
  epoch: number;
  worker: string;
  tenant: string | null;
  /** Its earlier state; null at its start on this worker. */
  from: string | null;
  /** Its state, by its name in the session machine, such as `live.streaming`. */
  to: string;
  /** Type of the event that led there. */
  event: string;
}

/** Who sends a request, as the embedding application knows it. */
export interface Identity {
  /** Name of the tenant: 1 to 200 characters, no control characters. No data crosses tenants. */
  tenant: string;
  /**
   * Key that is sent upstream for this tenant, as the provider issued it; null sends none. Absent: the key of the upstream.
   * Conversations under different keys are kept apart.
   */
  credential?: string | null | undefined;
  /** Name of the credential that stays the same when its key is renewed. Default: a hash of the key. */
  credentialId?: string | undefined;
}

/** An upstream beside the configured one. */
export interface UpstreamEntry {
  /** Base URL of the Responses API there. */
  url: string;
  /** Key of that upstream; null sends none. Absent: the tenant's or client's own; the configured key is never sent there. */
  key?: string | null | undefined;
  /** Further request headers that go there. */
  forwardHeaders?: readonly string[] | undefined;
  /** As `upstream.lanes`, for this upstream. Default: 0. */
  lanes?: number | undefined;
}

/** An upstream that a hook names by its address. */
export interface ChosenUpstream extends UpstreamEntry {
  /** Name under which its conversations are kept. Default: derived from URL and key. */
  id?: string | undefined;
}

/** Question which upstream gets a request. */
export interface UpstreamQuestion {
  req: IncomingMessage;
  tenant: string | null;
  /** Model that the body names; null for requests without a body. */
  model: string | null;
}

/**
 * Functions of the embedding application. None can break a turn: those that only observe are called after it, in their own
 * time, and one that throws or does not answer within `deadlines.hook` is logged. The two that decide refuse their request
 * then, with `bridge_hook_failed`.
 */
export interface BridgeHooks {
  /** Called when a turn's client has its answer. */
  onTurn?: ((turn: TurnReport) => unknown) | undefined;
  /** Called after each change of a session's state. */
  onSession?: ((change: SessionChange) => unknown) | undefined;
  /**
   * Tells who sends a request, in place of `auth.apiKeys`. Null or false refuses it with 401; a thrown {@link BridgeError}
   * refuses it with that error.
   */
  authenticate?: ((req: IncomingMessage) => Identity | null | false | Promise<Identity | null | false>) | undefined;
  /**
   * Chooses the upstream of a request: a name of `upstreams`, or an address. Null or undefined is the configured one. A
   * conversation stays with its upstream: at another one it is unknown.
   */
  chooseUpstream?:
    | ((
        question: UpstreamQuestion,
      ) => string | ChosenUpstream | null | undefined | Promise<string | ChosenUpstream | null | undefined>)
    | undefined;
}

/** Names of all hooks, which the check of misspelled options uses. */
export const hookNames = [
  'onTurn',
  'onSession',
  'authenticate',
  'chooseUpstream',
] as const satisfies readonly (keyof BridgeHooks)[];

type HookName = (typeof hookNames)[number];

interface HooksOptions {
  hooks: BridgeHooks;
  upstreams: Readonly<Record<string, string | UpstreamEntry>>;
  config: Config;
  /** Key of the hashes that name credentials and upstreams. */
  pepper: string;
  clock: Clock;
  logger: Log<'error'>;
  workerId(): string;
  /** Returns the scope of a session of this worker; null when it has none of that id. */
  scopeOf(sessionId: string): string | null;
}

/** The application's hooks as the parts of a bridge use them. */
export interface Hooks {
  /** Null when the application does not watch turns. */
  readonly onFinished: ((line: TurnLine, request: TurnRequest) => void) | null;
  /** Observer of the machines; null when the application does not watch sessions. */
  readonly step: ((step: Step) => void) | null;
  identify: ((req: IncomingMessage) => Promise<void>) | undefined;
  authenticate(req: IncomingMessage): Caller;
  chooseUpstream: ((req: IncomingMessage, caller: Caller, model: string | null) => Promise<Caller>) | undefined;
  /** Resolves when no observing hook has calls left, at the latest after `deadlines.hook`. */
  settled(): Promise<void>;
}

/** Calls of one observing hook without an answer; beyond them its calls are left out. */
const MOST_PENDING = 1_000;

/** Interval in which each kind of failure of a hook is logged once, in milliseconds. */
const LOGGED_EVERY_MS = 60_000;

/** The hook gave no answer in time. */
class Unanswered extends Error {
  override readonly name = 'Unanswered';
}

/**
 * Binds the hooks of an application.
 *
 * @throws `ConfigError` for a hook that is not a function, and for an entry of `upstreams` that cannot be used
 */
export function createHooks(options: HooksOptions): Hooks {
  const { hooks, config, pepper, clock, logger } = options;
  const limitMs = config.deadlines.hook;
  const own = createAuthentication(config, pepper);
  const keyed = (...parts: unknown[]) => createHmac('sha256', pepper).update(JSON.stringify(parts)).digest('hex');
  const configured = upstreamId(config.upstream.url);
  for (const name of hookNames) {
    if (hooks[name] !== undefined && typeof hooks[name] !== 'function') {
      throw new ConfigError(`hooks.${name} must be a function`);
    }
  }

  const loggedAt = new Map<string, number>();
  /** Logs a failure of a hook, once a minute for each hook and kind. */
  function report(hook: HookName, what: string, err?: unknown): void {
    const key = `${hook} ${what}`;
    const now = clock.now();
    if (now - (loggedAt.get(key) ?? Number.NEGATIVE_INFINITY) < LOGGED_EVERY_MS) return;
    loggedAt.set(key, now);
    logger.error({ hook, ...(err === undefined ? {} : { err }) }, `a hook ${what}`);
  }

  /** Calls a hook. Rejects with its error, or with `Unanswered` after `deadlines.hook`. */
  async function call<T>(work: () => T | Promise<T>): Promise<T> {
    const answer = work();
    if (!(answer instanceof Promise) && typeof (answer as { then?: unknown } | null)?.then !== 'function')
      return answer;
    let stop = () => {};
    const late = new Promise<never>((_, reject) => {
      stop = clock.after(limitMs, () => reject(new Unanswered(`no answer within ${limitMs} ms`)));
    });
    try {
      return await Promise.race([answer, late]);
    } finally {
      stop();
    }
  }

  let pending = 0;
  const idle: (() => void)[] = [];
  /** Returns the function that hands reports to a hook, after the code that reports has returned. */
  function observer<R>(name: 'onTurn' | 'onSession', hook: ((report: R) => unknown) | undefined) {
    if (!hook) return null;
    let waiting = 0;
    return (reported: R) => {
      if (waiting >= MOST_PENDING) return report(name, 'is too slow: calls of it are left out');
      waiting += 1;
      pending += 1;
      setImmediate(() => {
        call(async () => hook(reported))
          .catch((error) =>
            report(name, error instanceof Unanswered ? 'did not answer in time' : 'threw an error', error),
          )
          .finally(() => {
            waiting -= 1;
            pending -= 1;
            if (pending === 0) for (const resolve of idle.splice(0)) resolve();
          });
      });
    };
  }
  const onTurn = observer('onTurn', hooks.onTurn);
  const onSession = observer('onSession', hooks.onSession);

  /** States of the sessions with an actor in this process, by the actor's id. */
  const states = new Map<string, { state: string; tenant: string | null }>();
  function observe({ actor: { id, machine }, event, value, status }: Step): void {
    if (machine.id !== 'session') return;
    const [session, epoch] = id.split('@') as [string, string?];
    const before = states.get(id);
    const to = pathOf(value);
    const tenant = before?.tenant ?? tenantOf(options.scopeOf(session) ?? '');
    if (status === 'active') states.set(id, { state: to, tenant });
    else states.delete(id);
    const from = before?.state ?? null;
    if (from === to || (from === null && status !== 'active')) return;
    onSession?.({
      session,
      epoch: Number(epoch ?? 1),
      worker: options.workerId(),
      tenant,
      from,
      to,
      event: event.type,
    });
  }

  /**
   * Asks a hook that decides.
   *
   * @throws {BridgeError} its own, or `bridge_hook_failed`
   */
  async function ask<T>(name: HookName, work: () => T | Promise<T>): Promise<T> {
    try {
      return await call(work);
    } catch (error) {
      if (error instanceof BridgeError) throw error;
      throw failed(name, error instanceof Unanswered ? 'did not answer in time' : 'threw an error', error);
    }
  }
  /** Logs why a hook's request is refused. The client gets the hook's name and no more. */
  function failed(name: HookName, what: string, cause?: unknown): BridgeError {
    report(name, what, cause);
    return new BridgeError('bridge_hook_failed', { detail: `Its hook ${name} gave no usable answer.`, cause });
  }

  const { authenticate } = hooks;
  const answers = new WeakMap<IncomingMessage, Caller | { refused: unknown }>();
  /** Returns a tenant's caller under the configured key; without one, it has no credential. */
  const underConfiguredKey = (scope: string): Caller =>
    config.upstream.key === null
      ? { scope, credentialFp: keyed('none'), upstreamAuthorization: null, credentialIsClients: false }
      : { ...own({ headers: {} }), scope };

  function callerOf(identity: Identity | null | false): Caller {
    if (identity === null || identity === false) throw new BridgeError('bridge_unauthorized');
    const { tenant, credential, credentialId } = isRecord(identity) ? identity : ({} as Partial<Identity>);
    if (!isName(tenant)) throw failed('authenticate', 'named no usable tenant');
    const scope = `tenant:${tenant}`;
    if (credential === undefined) {
      if (config.upstream.key === null && !hooks.chooseUpstream) {
        throw failed('authenticate', 'named no credential, and there is no upstream.key');
      }
      return underConfiguredKey(scope);
    }
    const upstreamAuthorization = credential === null ? null : bearerOf(credential);
    if (credential !== null && upstreamAuthorization === null) {
      throw failed('authenticate', 'named a credential that cannot be sent');
    }
    if (credentialId !== undefined && !isName(credentialId))
      throw failed('authenticate', 'named no usable credentialId');
    const credentialFp = keyed(...(credentialId === undefined ? ['key', upstreamAuthorization] : ['id', credentialId]));
    return { scope: within(scope, credentialFp), credentialFp, upstreamAuthorization, credentialIsClients: false };
  }

  /** Returns the caller that the application named for a request, or throws its refusal. */
  function answerFor(req: IncomingMessage): Caller {
    const answer = answers.get(req);
    // A route that did not ask the application first serves nothing.
    if (!answer) throw failed('authenticate', 'was not asked');
    if ('refused' in answer) throw answer.refused;
    return answer;
  }

  /**
   * Returns a scope of its own within a scope. A name with a hash is of a form that no other scope has.
   *
   * @param by what distinguishes it: a credential, an upstream
   */
  function within(scope: string, by: string): string {
    const [, kind, earlier = '', rest = ''] = /^([a-z]+)(?:@(\w+))?(:.*)?$/s.exec(scope)!;
    return `${kind}@${keyed('within', earlier, by).slice(0, 24)}${rest}`;
  }

  function targetOf(
    given: UpstreamEntry,
    id: string,
  ): { target: UpstreamTarget; key: string | null | undefined } | null {
    if (!isRecord(given)) return null;
    const { url, key, forwardHeaders = [], lanes = 0 } = given;
    const baseUrl = typeof url === 'string' ? upstreamUrlOf(url) : null;
    const authorization = typeof key === 'string' ? bearerOf(key) : key;
    const names = Array.isArray(forwardHeaders) ? forwardHeaders.map((name) => String(name).toLowerCase()) : null;
    if (baseUrl === null || names === null || !names.every(isForwardable)) return null;
    if (authorization === null && key !== null) return null;
    if (!Number.isInteger(lanes) || lanes < 0 || lanes > MOST_NAMED) return null;
    const target = {
      id: `${id} ${upstreamId(baseUrl)}`,
      baseUrl,
      forwardHeaders: [...config.upstream.forwardHeaders, ...names],
      lanes,
    };
    return { target, key: authorization };
  }

  const named = new Map(
    Object.entries(options.upstreams).map(([name, given]) => {
      const entry = targetOf(typeof given === 'string' ? { url: given } : given, name);
      if (!isName(name) || !entry)
        throw new ConfigError(`upstreams.${name.slice(0, 80)} must be a URL, or { url, key }`);
      return [name, entry];
    }),
  );
  if (named.size > 0 && !hooks.chooseUpstream) throw new ConfigError('upstreams needs hooks.chooseUpstream');

  /** Returns the caller with the key of its upstream. */
  function atTarget(caller: Caller, { target, key }: NonNullable<ReturnType<typeof targetOf>>): Caller {
    const scope = within(caller.scope, target.id);
    if (key !== undefined) {
      const { upstreamKeys: _, ...rest } = caller;
      return {
        ...rest,
        scope,
        target,
        credentialFp: keyed('key', key),
        upstreamAuthorization: key,
        credentialIsClients: false,
      };
    }
    // The configured key is sent to the configured upstream only.
    if (!hasOwnCredential(caller)) throw failed('chooseUpstream', 'chose an upstream without a key of its own');
    return { ...caller, scope, target };
  }

  async function choose(req: IncomingMessage, caller: Caller, model: string | null): Promise<Caller> {
    const question = { req, tenant: tenantOf(caller.scope), model };
    const chosen = await ask('chooseUpstream', () => hooks.chooseUpstream!(question));
    if (chosen === null || chosen === undefined) {
      if (config.upstream.key === null && !hasOwnCredential(caller)) {
        throw failed('chooseUpstream', 'chose the configured upstream, which has no key');
      }
      return caller;
    }
    if (typeof chosen === 'string') {
      const entry = named.get(chosen);
      if (!entry) throw failed('chooseUpstream', 'chose a name that is not among the upstreams');
      return atTarget(caller, entry);
    }
    const { id, url, key } = isRecord(chosen) ? chosen : ({} as Partial<ChosenUpstream>);
    if (id !== undefined && !isName(id)) throw failed('chooseUpstream', 'chose an upstream that cannot be used');
    const entry = targetOf(chosen, id ?? keyed('upstream', url, key).slice(0, 24));
    if (!entry) throw failed('chooseUpstream', 'chose an upstream that cannot be used');
    return atTarget(caller, entry);
  }

  return {
    onFinished:
      onTurn &&
      ((line, { body: { model }, caller }) =>
        onTurn({
          request: line.request,
          turn: line.turn,
          session: line.session,
          worker: options.workerId(),
          tenant: tenantOf(caller.scope),
          model: typeof model === 'string' ? model : null,
          upstream: caller.target?.id ?? configured,
          outcome: line.outcome as Outcome,
          terminal: line.terminal,
          fault: line.fault,
          upstreamStatus: line.upstreamStatus,
          upstreamRequest: line.upstreamRequest,
          form: line.form,
          heldMs: line.heldMs,
          firstEventMs: line.firstEventMs,
          totalMs: line.totalMs,
          bytesFromClient: line.bytesFromClient,
          bytesSent: line.bytesSent,
          tokens: tokensOf(line.tokens),
        })),
    step: onSession ? observe : null,
    identify:
      authenticate &&
      (async (req) => {
        try {
          answers.set(req, callerOf(await ask('authenticate', () => authenticate(req))));
        } catch (refused) {
          answers.set(req, { refused });
        }
      }),
    authenticate: authenticate ? answerFor : own,
    chooseUpstream: hooks.chooseUpstream && choose,
    async settled() {
      if (pending === 0) return;
      await new Promise<void>((resolve) => {
        const stop = clock.after(limitMs, resolve);
        idle.push(() => {
          stop();
          resolve();
        });
      });
    },
  };
}

/** Returns whether a caller has a credential of its own, the client's or one that `authenticate` named. */
const hasOwnCredential = ({ credentialIsClients, scope }: Caller) => credentialIsClients || scope.startsWith('tenant@');

const isRecord = (value: unknown): value is object => typeof value === 'object' && value !== null;

/** Returns whether a text may name a tenant, a credential or an upstream: it is stored, and shown to operators. */
const isName = (value: unknown): value is string =>
  typeof value === 'string' && value.isWellFormed() && /^[^\p{Cc}]{1,200}$/u.test(value);

/** Returns the value of the `authorization` header for a key; null for one that cannot be sent. */
function bearerOf(key: unknown): string | null {
  if (typeof key !== 'string') return null;
  const bare = key.trim().replace(/^Bearer +/i, '');
  return isSendable(bare) ? `Bearer ${bare}` : null;
}

function tokensOf(usage: unknown): TurnTokens | null {
  if (!isRecord(usage)) return null;
  const of = (from: unknown, name: string) => {
    const value = isRecord(from) ? (from as Record<string, unknown>)[name] : undefined;
    return typeof value === 'number' ? value : 0;
  };
  const { input_tokens_details: ofInput, output_tokens_details: ofOutput } = usage as Record<string, unknown>;
  return {
    input: of(usage, 'input_tokens'),
    cached: of(ofInput, 'cached_tokens'),
    output: of(usage, 'output_tokens'),
    reasoning: of(ofOutput, 'reasoning_tokens'),
    total: of(usage, 'total_tokens'),
  };
}

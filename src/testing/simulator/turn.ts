import { setTimeout as sleep } from 'node:timers/promises';
import type { ChaosSource } from './chaos.ts';
import { resolveContext } from './context.ts';
import { inputItems } from './digest.ts';
import { previousResponseNotFound, Refusal } from './error-shapes.ts';
import type { TurnSeen } from './faults.ts';
import type { EntryOf, JournalWriter, TurnEnd } from './journal.ts';
import { isTerminal, numberEvents, rewrite, type Step } from './program.ts';
import type { ConnectionCache, Provider } from './provider.ts';
import { createGate, type Gate, type Rules } from './script.ts';
import { composeSegment, steeredContext } from './segment.ts';
import { signalsBefore } from './signals.ts';
import type { SimulatorOptions } from './types.ts';
import type { Wire } from './wire.ts';

/** Objects shared by all turns of one simulator. */
export interface TurnHost {
  options: SimulatorOptions;
  provider: Provider;
  rules: Rules;
  journal: JournalWriter;
  chaos: () => ChaosSource | null;
}

/** One create as it arrived. */
export interface Intake {
  wire: Wire;
  body: Record<string, unknown>;
  bytes: number;
  headers: Record<string, string>;
  credential: string;
  connection: number | null;
  nthOnConnection: number;
  lane: string | null;
  cache: ConnectionCache | null;
  queuedBehind: number;
}

function turnStateOf(intake: Intake): string | null {
  const metadata = intake.body.client_metadata as Record<string, unknown> | undefined;
  const value = intake.headers['x-codex-turn-state'] ?? metadata?.['x-codex-turn-state'];
  return typeof value === 'string' ? value : null;
}

export interface Turn {
  readonly number: number;
  /**
   * Runs the turn to its end. Never rejects.
   *
   * @param laneFree called once, when the lane may start its next turn
   */
  run(laneFree: () => void): Promise<void>;
}

/**
 * Accepts a create: assigns its number, selects its faults and, when it must wait, adds it to the journal immediately.
 */
export function openTurn(host: TurnHost, intake: Intake): Turn {
  const { options, provider, journal } = host;
  const { wire, body, credential, connection, cache } = intake;
  const number = provider.nextTurn();
  const anchor = typeof body.previous_response_id === 'string' ? body.previous_response_id : null;
  const seen: TurnSeen = {
    turn: number,
    connection,
    nthOnConnection: intake.nthOnConnection,
    transport: wire.transport,
    lane: intake.lane,
    body,
    headers: intake.headers,
  };
  const applied = host.rules.forTurn(seen);
  const wild = applied ? null : (host.chaos()?.forTurn(number) ?? null);
  const faults = applied?.faults ?? (wild ? [wild] : []);
  const gate: Gate = applied?.gate ?? createGate();
  const rule = applied?.rule ?? 0;
  let entry: EntryOf<'create'> | null = null;
  let conversation: string | null = null;

  const facts = {
    digest: null as string | null,
    contextItems: null as number | null,
    responseId: null as string | null,
  };
  function journalCreate(): void {
    if (entry) return void Object.assign(entry, facts);
    entry = journal.record('create', {
      turn: number,
      connection,
      transport: wire.transport,
      lane: intake.lane,
      credential,
      headers: intake.headers,
      body: options.journalBodies === false ? {} : body,
      bytes: intake.bytes,
      itemsReceived: inputItems(body.input).length,
      previousResponseId: anchor,
      generate: body.generate !== false,
      turnState: turnStateOf(intake),
      queuedBehind: intake.queuedBehind,
      ...facts,
    });
    if (faults.length > 0)
      journal.record('fault', { rule, turn: number, connection, fault: faults.length === 1 ? faults[0]! : faults });
  }

  /** Builds the turn's program with faults applied. The program of a refused request is a single error. */
  function plan(): Step[] {
    const foreignId = provider.id('resp');
    let steps: Step[];
    let started: Record<string, unknown> | null = null;
    try {
      const checkToolPairs = options.checkToolPairs ?? true;
      const context = resolveContext({ provider, credential, cache, body, checkToolPairs });
      const steered = faults.find((fault) => fault.kind === 'steered');
      const incomplete = faults.find((fault) => fault.kind === 'incomplete');
      const reason = steered ? 'steered' : incomplete ? (incomplete.reason ?? 'max_output_tokens') : null;
      const spec = { host, intake, turn: number };
      const first = composeSegment({ ...spec, context, body, faults, incompleteReason: reason });
      ({ steps, started } = first);
      conversation = context.conversation;
      if (steered) {
        const next = { ...body, previous_response_id: first.record.id };
        const successor = steeredContext(first.record, steered.input ?? 'Steered.', next);
        const follow = { ...spec, context: successor, body: next, faults: [], incompleteReason: null };
        steps.push(...composeSegment(follow).steps);
      }
      facts.digest = context.digest;
      facts.contextItems = context.count;
      facts.responseId = first.record.id;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      steps = [{ op: 'error', error: error.error, shape: 'nested' }];
    }
    if (started && wire.transport === 'websocket' && options.telemetry !== false) {
      const timing = 'x-responsesapi-include-timing-metrics' in intake.headers;
      const signals = signalsBefore(provider.seed, number, body.model, timing);
      steps.unshift(...signals.map((event): Step => ({ op: 'send', event })));
    }
    const known = { anchor, started, foreignId, refusal: previousResponseNotFound(anchor ?? '') };
    for (const fault of faults) steps = rewrite(steps, fault, known);
    return numberEvents(steps);
  }

  async function perform(steps: readonly Step[], laneFree: () => void): Promise<void> {
    let end: TurnEnd = 'scripted';
    let code: string | null = null;
    let sequence = 0;
    const { gone } = wire;
    const wait = (ms: number) => sleep(ms, undefined, { signal: gone }).catch(() => undefined);
    const evict = () => anchor !== null && cache?.evict(anchor);
    const held = () => journal.record('held', { turn: number, connection, rule });

    if (options.latencyMs) await wait(options.latencyMs);
    for (const step of steps) {
      if (gone.aborted) break;
      switch (step.op) {
        case 'send': {
          if (options.eventGapMs && sequence > 0) await wait(options.eventGapMs);
          const interleaved = wire.send(step.event);
          if (interleaved) await interleaved;
          sequence += 1;
          if (!isTerminal(step.event)) break;
          end = step.event.type.slice('response.'.length) as TurnEnd;
          if (end !== 'failed') break;
          code = (step.event.response as { error?: { code?: string } }).error?.code ?? null;
          evict();
          break;
        }
        case 'raw':
          wire.raw(step.text);
          break;
        case 'sleep':
          await wait(step.ms);
          break;
        case 'commit': {
          const { record } = step;
          provider.read(record);
          if (body.store !== false) provider.store(record);
          cache?.put(intake.lane ?? '', record);
          if (conversation !== null) provider.advance(credential, conversation, record);
          break;
        }
        case 'hold':
          held();
          await (step.until === 'release' ? gate.wait(gone) : Promise.race([gate.wait(gone), wire.next('create')]));
          break;
        case 'detach':
          held();
          laneFree();
          await Promise.race([gate.wait(gone), wire.next('created')]);
          break;
        case 'error':
          wire.refuse(step.error, step.shape, sequence);
          end = 'error';
          code = step.error.code ?? null;
          evict();
          break;
        case 'respond':
          wire.respond(step.status, step.headers, step.body);
          end = 'error';
          if (step.status >= 400) evict();
          break;
        case 'close':
          wire.close(step.code, step.reason);
          if (end === 'scripted') end = 'closed';
          break;
        case 'reset':
          wire.reset();
          if (end === 'scripted') end = 'reset';
          break;
      }
    }
    if (end === 'scripted' && gone.aborted) end = 'abandoned';
    wire.finish();
    journal.record('end', { turn: number, connection, responseId: facts.responseId, end, code });
  }

  if (intake.queuedBehind > 0) journalCreate();
  return {
    number,
    async run(laneFree) {
      const steps = plan();
      journalCreate();
      try {
        await perform(steps, laneFree);
      } finally {
        laneFree();
      }
    },
  };
}

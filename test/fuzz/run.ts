import { createHash } from 'node:crypto';
import { bodies } from './bodies.ts';
import { frames } from './frames.ts';
import { hops } from './hops.ts';
import { http } from './http.ts';
import type { At, Property, Violation } from './judge.ts';
import { plain } from './plain.ts';
import { type Random, randomOf } from './random.ts';
import { rows } from './rows.ts';
import { sockets } from './sockets.ts';
import { tokens } from './tokens.ts';
import { sizeOf, smaller, type Tree } from './tree.ts';
import { LONGEST_MS, type Memory, type Mode, modes, openWorld, type World } from './world.ts';

/** A kind of input: generates one from a random source, and sends it to the worker. */
interface Target {
  name: string;
  make(r: Random): Tree;
  run(input: Tree, at: At): Promise<void>;
}

/** Share of each target among all cases. */
const share: readonly (readonly [number, Target])[] = [
  [60, http],
  [16, bodies],
  [6, sockets],
  [8.5, frames],
  [5, tokens],
  [3, hops],
  [0.5, rows],
  [1, plain],
];
const targets = new Map<string, Target>(share.map(([, target]) => [target.name, target]));
export const targetNames = [...targets.keys()];

/** One replayable input. */
export interface Case {
  target: string;
  mode: Mode;
  input: Tree;
}

export interface Finding extends Violation {
  case: Case;
  /** Seed and number of the case that produced it. */
  from: string;
  /** Number of occurrences. */
  times: number;
}

export interface Plan {
  seed: number;
  count: number;
  /** Time limit, in milliseconds after the workers are ready. */
  within?: number;
  only?: string;
  modes?: readonly Mode[];
  concurrency?: number;
  /** Called once per distinct signature. */
  onFinding?(finding: Finding): void;
  onProgress?(line: string): void;
}

export interface Campaign {
  ran: Map<string, number>;
  total: number;
  /** Time from the first case to the last, in milliseconds. */
  tookMs: number;
  findings: Finding[];
  /** Memory per mode, before the first case and after the last. */
  memory: Map<Mode, { before: Memory; after: Memory }>;
  /** Number of log lines, by level and normalised text. */
  lines: Map<string, number>;
}

/**
 * Number of cases of one worker between two checks of its sessions and its log (BATCH), and of those that run
 * concurrently.
 */
const BATCH = 500;
const CONCURRENCY = 32;
/** Descriptors that a worker may hold beyond those at its start: the database pool and a few idle connections. */
const POOLED = 25;
/** Properties that a busy machine can violate on its own: reported only if the case reproduces alone. */
const timed = new Set<Property>(['hang', 'afterwards', 'wedge', 'cut']);

/** Returns the case of that number. */
export function caseOf(seed: number, n: number, mode: Mode, only?: string): Case {
  const r = randomOf(seed, 'case', n);
  const target = only ? targets.get(only) : r.weighted(share);
  if (!target) throw new Error(`there is no target ${only}: one of ${targetNames.join(', ')}`);
  return { target: target.name, mode, input: target.make(r) };
}

/** Result of one case run. */
interface Outcome {
  thread: string;
  violations: Violation[];
  requests: Set<string>;
}

let threads = 0;

/** Sends one case to a worker and reports the properties that its answers violate. */
export async function give({ target, input }: Case, world: World): Promise<Outcome> {
  const outcome: Outcome = { thread: `fz-${process.pid}-${(threads += 1)}`, violations: [], requests: new Set() };
  const seen = new Set<string>();
  const at: At = {
    world,
    thread: outcome.thread,
    found(property, signature, detail) {
      const key = `${property} ${signature}`;
      if (seen.has(key)) return;
      seen.add(key);
      outcome.violations.push({ property, signature, detail });
    },
    saw: (requestId) => void outcome.requests.add(requestId),
  };
  // An exception of the fuzzer itself is a finding as well: it must not end a long campaign.
  await targets
    .get(target)!
    .run(input, at)
    .catch((error: Error) => at.found('fuzzer', signatureOf(error.stack ?? String(error)), String(error.stack)));
  world.upstream.calm(outcome.thread);
  // A broken connection may be the first sign of a process that is exiting.
  if (outcome.violations.length > 0) await Promise.race([world.gone, new Promise((soon) => setTimeout(soon, 300))]);
  return outcome;
}

/** Returns the first line of a stack and its first frame in this project. */
export function signatureOf(stack: string): string {
  const [first = ''] = stack.split('\n');
  const place = /\/((?:src|machines)\/[^\s:)]+):(\d+)/.exec(stack)?.[1] ?? '';
  const words = first.replaceAll(/"[^"]*"|'[^']*'/g, '~').replaceAll(/[0-9a-f]{8,}(?:-[0-9a-f]+)*|\d+/gi, '#');
  return `${words.slice(0, 120)} ${place}`.trim();
}

/** Returns the violation that a log line shows. */
function violationOf(line: World['log'][number], secrets: readonly string[]): Violation {
  const error = line.fields.err as
    | { message?: string; stack?: string; cause?: { message?: string; stack?: string } }
    | undefined;
  const inner = error?.cause?.stack ?? error?.stack;
  const signature = `${line.msg}: ${inner ? signatureOf(inner) : ''}`;
  const property: Property = secrets.some((secret) => line.text.includes(secret)) ? 'log leak' : 'log error';
  return { property, signature, detail: (inner ?? line.text).slice(0, 1_500) };
}

/** Returns the sessions with an active turn, by the hash of their thread. */
async function busy(world: World): Promise<Map<string, string>> {
  const found = await world.database.query(
    `select s.id, s.state, coalesce((select hash from session_key k where k.session_id = s.id and k.kind = 'thread' limit 1), '') as hash
     from bridge_session s where s.active_turn_id is not null`,
  );
  return new Map((found.rows as { id: string; hash: string }[]).map(({ id, hash }) => [id, hash]));
}

const hashOf = (thread: string) => createHash('sha256').update(thread).digest('hex');

/**
 * Waits until no session is busy.
 * @returns the sessions that stay busy, with the hash of their thread
 */
async function calmDown(world: World, known: ReadonlySet<string>): Promise<Map<string, string>> {
  const end = performance.now() + LONGEST_MS;
  for (;;) {
    const now = await busy(world).catch(() => new Map<string, string>());
    for (const id of known) now.delete(id);
    if (now.size === 0 || world.crash !== null || performance.now() > end) return now;
    await new Promise((look) => setTimeout(look, 50));
  }
}

/** Runs one case on an otherwise idle worker, and then checks every property. */
async function alone(one: Case, world: World): Promise<Violation[]> {
  const before = world.log.length;
  const settled = new Set((await busy(world)).keys());
  const outcome = await give(one, world);
  // An error from a later turn of the event loop shows only after a delay.
  await Promise.race([world.gone, new Promise((soon) => setTimeout(soon, 30))]);
  if (world.crash === null) {
    const left = await calmDown(world, settled);
    if (left.size > 0) outcome.violations.push(wedge(world, [...left.keys()]));
  }
  if (world.crash !== null) {
    // Other violations are consequences of the exit.
    outcome.violations = [
      { property: 'crash', signature: signatureOf(world.crash), detail: world.crash.slice(0, 1_500) },
    ];
    await world.restart();
  }
  for (const line of world.log.slice(before)) outcome.violations.push(violationOf(line, world.secrets));
  // A session that keeps repeating its error would write into the log of the next case.
  if (outcome.violations.some(({ property }) => property === 'wedge')) await world.restart();
  return [...new Map(outcome.violations.map((each) => [keyOf(each), each])).values()];
}

/** Returns a wedge, identified by the error that its session repeats. */
function wedge(world: World, sessions: readonly string[]): Violation {
  const line = world.log.findLast(
    ({ fields }) =>
      sessions.includes(String(fields.session)) || sessions.some((id) => String(fields.actor ?? '').includes(id)),
  );
  const why = line ? violationOf(line, []).signature : 'nothing in the log';
  return { property: 'wedge', signature: why, detail: `${sessions.length} busy, such as ${sessions[0]}` };
}

const keyOf = ({ property, signature }: Violation) => `${property}: ${signature}`;

/** Runs cases until the count or the time limit is reached. */
export async function campaign(plan: Plan): Promise<Campaign> {
  const { seed, count, within = Number.POSITIVE_INFINITY, only, concurrency = CONCURRENCY } = plan;
  let began = performance.now();
  const isOver = () => performance.now() - began >= within;
  const findings = new Map<string, Finding>();
  const ran = new Map<string, number>();
  const worlds = new Map<Mode, World>();
  const memory = new Map<Mode, { before: Memory; after: Memory }>();
  const knownBusy = new Set<string>();
  /** Replays that must run alone, and therefore after the concurrent ones. */
  const later: (() => Promise<void>)[] = [];
  const list = plan.modes ?? modes;

  const keep = (violation: Violation, one: Case, from: string) => {
    const key = keyOf(violation);
    const known = findings.get(key);
    if (known) return void (known.times += 1);
    const finding = { ...violation, case: one, from, times: 1 };
    findings.set(key, finding);
    plan.onFinding?.(finding);
  };

  async function batch(world: World, cases: readonly { one: Case; from: string }[]): Promise<void> {
    const waiting = [...cases];
    const running = new Map<object, { one: Case; from: string }>();
    const byRequest = new Map<string, { one: Case; from: string }>();
    const byThread = new Map<string, { one: Case; from: string }>();
    const before = world.log.length;
    const doubtful = new Map<string, { violation: Violation; one: Case; from: string }>();
    const note = (violation: Violation, one: Case, from: string) => {
      const key = keyOf(violation);
      if (timed.has(violation.property) && !findings.has(key)) doubtful.set(key, { violation, one, from });
      else keep(violation, one, from);
    };
    const work = async () => {
      while (waiting.length > 0 && world.crash === null && !isOver()) {
        const next = waiting.shift()!;
        const key = {};
        running.set(key, next);
        const outcome = await give(next.one, world);
        if (world.crash !== null) return;
        running.delete(key);
        ran.set(next.one.target, (ran.get(next.one.target) ?? 0) + 1);
        for (const id of outcome.requests) byRequest.set(id, next);
        byThread.set(hashOf(outcome.thread), next);
        for (const violation of outcome.violations) note(violation, next.one, next.from);
      }
    };
    await Promise.all(Array.from({ length: concurrency }, work));
    const left = world.crash === null ? await calmDown(world, knownBusy) : new Map<string, string>();
    for (const [session, hash] of left) {
      knownBusy.add(session);
      const culprit = byThread.get(hash);
      note(
        wedge(world, [session]),
        culprit?.one ?? cases[0]!.one,
        culprit?.from ?? `one of ${cases[0]!.from} and those behind`,
      );
    }
    const unclear: Violation[] = [];
    for (const line of world.log.slice(before)) {
      const violation = violationOf(line, world.secrets);
      const culprit = byRequest.get(String(line.fields.requestId ?? line.fields.request ?? ''));
      if (culprit) keep(violation, culprit.one, culprit.from);
      else if (findings.has(keyOf(violation))) findings.get(keyOf(violation))!.times += 1;
      else unclear.push(violation);
    }
    if (world.crash !== null) return afterCrash(world, [...running.values()], waiting);
    for (const { violation, one, from } of doubtful.values())
      later.push(() => isolate(world, violation, [{ one, from }]));
    for (const violation of new Map(unclear.map((each) => [keyOf(each), each])).values()) {
      later.push(() => isolate(world, violation, cases));
    }
  }

  /** Replays each case that was running at the crash alone, because any of them may have caused it. */
  async function afterCrash(
    world: World,
    suspects: { one: Case; from: string }[],
    rest: { one: Case; from: string }[],
  ): Promise<void> {
    const violation: Violation = {
      property: 'crash',
      signature: signatureOf(world.crash!),
      detail: world.crash!.slice(0, 1_500),
    };
    await world.restart();
    const known = findings.get(keyOf(violation));
    if (known) known.times += 1;
    else await isolate(world, violation, suspects);
    for (const { one } of suspects) ran.set(one.target, (ran.get(one.target) ?? 0) + 1);
    if (rest.length > 0 && !isOver()) await batch(world, rest);
  }

  async function isolate(
    world: World,
    violation: Violation,
    suspects: readonly { one: Case; from: string }[],
  ): Promise<void> {
    for (const suspect of suspects.slice(-200)) {
      const seen = await alone(suspect.one, world);
      for (const each of seen) keep(each, suspect.one, suspect.from);
      if (seen.some((each) => keyOf(each) === keyOf(violation))) return;
    }
    if (timed.has(violation.property)) return;
    keep(
      violation,
      suspects[0]?.one ?? { target: 'http', mode: world.mode, input: null },
      `not seen again alone; one of ${suspects.length}`,
    );
  }

  try {
    await Promise.all(
      list.map(async (mode) => {
        const world = await openWorld(mode);
        worlds.set(mode, world);
        const before = await world.memory();
        memory.set(mode, { before, after: before });
      }),
    );
    began = performance.now();
    let n = 0;
    // While one worker waits at the end of its batch, the others run.
    const drive = async (mode: Mode, world: World) => {
      while (n < count && !isOver()) {
        const first = n;
        const size = Math.min(BATCH, Math.ceil(count / list.length), count - first);
        n += size;
        const cases = Array.from({ length: size }, (_, k) => ({
          one: caseOf(seed, first + k, mode, only),
          from: `seed ${seed}, case ${first + k}, ${mode}`,
        }));
        await batch(world, cases);
        const seconds = (performance.now() - began) / 1000;
        const done = [...ran.values()].reduce((sum, times) => sum + times, 0);
        plan.onProgress?.(`${done} cases, ${Math.round(done / seconds)}/s, ${findings.size} findings`);
      }
    };
    await Promise.all([...worlds].map(([mode, world]) => drive(mode, world)));
    const tookMs = performance.now() - began;
    for (const look of later) await look();
    await Promise.all(
      [...worlds].map(async ([mode, world]) => {
        const { before } = memory.get(mode)!;
        memory.set(mode, { before, after: await settledMemory(world, before) });
      }),
    );
    for (const [mode, { before, after }] of memory) {
      if (after.descriptors > before.descriptors + POOLED) {
        const detail = `${before.descriptors} before, ${after.descriptors} after`;
        keep(
          { property: 'descriptors', signature: 'more than before', detail },
          { target: only ?? 'all', mode, input: null },
          `seed ${seed}`,
        );
      }
    }
    const lines = new Map<string, number>();
    for (const { counts } of worlds.values())
      for (const [kind, times] of counts) lines.set(kind, (lines.get(kind) ?? 0) + times);
    return {
      ran,
      total: [...ran.values()].reduce((sum, times) => sum + times, 0),
      findings: [...findings.values()],
      tookMs,
      memory,
      lines,
    };
  } finally {
    await Promise.all([...worlds.values()].map((world) => world.close()));
  }
}

/** Returns the worker's memory after its idle sockets were closed. */
async function settledMemory(world: World, before: Memory): Promise<Memory> {
  const end = performance.now() + 12_000;
  for (;;) {
    const now = await world.memory();
    if (now.descriptors <= before.descriptors + 10 || performance.now() > end) return now;
    await new Promise((look) => setTimeout(look, 500));
  }
}

/** Replays cases on separate workers, one at a time. */
export async function replayAll(cases: readonly Case[]): Promise<Violation[][]> {
  const all: Violation[][] = cases.map(() => []);
  for (const mode of modes) {
    const own = cases.flatMap((one, n) => (one.mode === mode ? [n] : []));
    if (own.length === 0) continue;
    const world = await openWorld(mode);
    try {
      for (const n of own) all[n] = await alone(cases[n]!, world);
    } finally {
      await world.close();
    }
  }
  return all;
}

export interface ShrinkLimits {
  /** Maximum number of attempts. */
  tries: number;
  /** Time limit in milliseconds. */
  within: number;
}

/** Returns a smaller case with the same violation; null if the case does not reproduce alone. */
export async function shrink(finding: Finding, { tries, within }: ShrinkLimits): Promise<Finding | null> {
  const world = await openWorld(finding.case.mode);
  const end = performance.now() + within;
  const wanted = keyOf(finding);
  let left = tries;
  const shows = async (one: Case): Promise<Violation | undefined> => {
    left -= 1;
    const seen = await alone(one, world).catch(() => []);
    return seen.find((each) => keyOf(each) === wanted);
  };
  try {
    let best = finding.case;
    let violation = await shows(best);
    if (!violation) return null;
    for (let again = true; again; ) {
      again = false;
      for (const input of smaller(best.input)) {
        if (left <= 0 || performance.now() > end) break;
        if (sizeOf(input) >= sizeOf(best.input)) continue;
        const seen = await shows({ ...best, input });
        if (!seen) continue;
        best = { ...best, input };
        violation = seen;
        again = true;
        break;
      }
    }
    return { ...finding, ...violation, case: best };
  } finally {
    await world.close();
  }
}

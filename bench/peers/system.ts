import { execFileSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';

/** Proxies have one processor; the client, the upstream and PostgreSQL have another. */
const processors = { proxy: '0', client: '1' };

/** Whether processes can be bound to processors here. */
export const pinned =
  availableParallelism() >= 2 &&
  (() => {
    try {
      execFileSync('taskset', ['-a', '-c', '-p', processors.client, String(process.pid)], { stdio: 'ignore' });
      return true;
    } catch {
      return false;
    }
  })();

/** Returns the words before a command that bind it to the processor of its part. */
export const prefixFor = (part: keyof typeof processors): string[] =>
  pinned ? ['taskset', '-c', processors[part]] : [];

interface Running {
  pid: number;
  parent: number;
  name: string;
}

function processes(): Running[] {
  if (process.platform !== 'linux') return [];
  return readdirSync('/proc').flatMap((entry) => {
    if (!/^\d+$/.test(entry)) return [];
    try {
      const stat = readFileSync(`/proc/${entry}/stat`, 'utf8');
      const rest = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      return [
        { pid: Number(entry), parent: Number(rest[1]), name: stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')')) },
      ];
    } catch {
      return [];
    }
  });
}

/** Returns the processes below and including a root. */
function treeOf(root: number): Running[] {
  const all = processes();
  const found = all.filter(({ pid }) => pid === root);
  for (const { pid } of found) found.push(...all.filter(({ parent }) => parent === pid));
  return found;
}

/** Returns the processes of the PostgreSQL server that this process has started. */
const postgres = () => treeOf(process.pid).filter(({ name }) => name === 'postgres');

/** Processor time in milliseconds of every thread that runs now, by thread. */
type Times = Map<string, number>;

function times(of: readonly Running[]): Times {
  const times: Times = new Map();
  for (const { pid } of of) {
    try {
      for (const task of readdirSync(`/proc/${pid}/task`)) {
        const [ns] = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ');
        times.set(`${pid}/${task}`, Number(ns) / 1e6);
      }
    } catch {
      // The process has ended.
    }
  }
  return times;
}

const between = (before: Times, after: Times) =>
  [...after].reduce((sum, [thread, ms]) => sum + ms - (before.get(thread) ?? 0), 0);

/** Returns a function that gives the processor time since then, in milliseconds: of the processes below `pid`, and of PostgreSQL. */
export function processorTime(pid: number | null): () => { own: number; postgres: number } {
  const of = () => (pid === null ? [] : treeOf(pid));
  const [own, database] = [times(of()), times(postgres())];
  return () => ({
    own: process.platform === 'linux' ? between(own, times(of())) : Number.NaN,
    postgres: process.platform === 'linux' ? between(database, times(postgres())) : Number.NaN,
  });
}

/** Returns the memory of the processes below and including `pid`, in MiB. Pages that several share are divided among them. */
export function memoryOf(pid: number): number {
  let kib = 0;
  for (const each of treeOf(pid)) {
    try {
      const pss = /^Pss:\s+(\d+) kB/m.exec(readFileSync(`/proc/${each.pid}/smaps_rollup`, 'utf8'));
      kib += Number(pss?.[1] ?? 0);
    } catch {
      // The process has ended.
    }
  }
  return kib === 0 ? Number.NaN : kib / 1_024;
}

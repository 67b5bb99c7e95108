import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** A started program with a process group of its own, as a shell gives one to each of its commands. */
export interface Program {
  readonly pid: number;
  /** What it has written so far, to either stream. */
  text(): string;
  /** Resolves when that holds this text so many times; rejects when nothing more can be said. */
  says(text: string, times?: number): Promise<void>;
  /** Signals the process alone. */
  signal(signal: NodeJS.Signals): void;
  /** Signals every process of its group, as a terminal does. */
  signalGroup(signal: NodeJS.Signals): void;
  /** Exit code and signal. */
  gone: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/** Without what `npm test` itself has set: a program of a test is not one that npm has started, unless the test says so. */
export const plainEnv = (): NodeJS.ProcessEnv =>
  Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('npm_')));

export function startProgram(
  command: string,
  args: readonly string[],
  options: { cwd?: string; env?: NodeJS.ProcessEnv } = {},
): Program {
  const child = spawn(command, args, {
    cwd: options.cwd,
    env: { ...plainEnv(), ...options.env },
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const pid = child.pid!;
  let output = '';
  let ended = false;
  const listeners = new Set<() => void>();
  const news = () => {
    for (const look of [...listeners]) look();
  };
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk) => {
      output += chunk;
      news();
    });
  }
  const gone = new Promise<{ code: number | null; signal: NodeJS.Signals | null }>((resolve) => {
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  // What it has started may go on writing.
  child.once('close', () => {
    ended = true;
    news();
  });
  const send = (to: number, signal: NodeJS.Signals) => {
    try {
      process.kill(to, signal);
    } catch {
      // Gone.
    }
  };
  return {
    pid,
    text: () => output,
    says: (text, times = 1) =>
      new Promise((resolve, reject) => {
        const look = () => {
          const found = output.split(text).length > times;
          if (!found && !ended) return;
          listeners.delete(look);
          if (found) resolve();
          else reject(new Error(`the program ended without "${text}":\n${output}`));
        };
        listeners.add(look);
        look();
      }),
    signal: (signal) => send(pid, signal),
    signalGroup: (signal) => send(-pid, signal),
    gone,
  };
}

/** Whether a process runs; one that has ended and was not reaped does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && process.platform !== 'linux';
  }
}

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';

/** A started program in its own process group, like a command of a shell. */
export interface Program {
  readonly pid: number;
  /** Returns its output so far, of both streams. */
  text(): string;
  /** Resolves when the output contains this text `times` times; rejects when the output has ended before. */
  says(text: string, times?: number): Promise<void>;
  /** Signals only the process. */
  signal(signal: NodeJS.Signals): void;
  /** Signals every process of its group, as a terminal does. */
  signalGroup(signal: NodeJS.Signals): void;
  /** Exit code and signal. */
  gone: Promise<{ code: number | null; signal: NodeJS.Signals | null }>;
}

/**
 * Returns the environment without the variables that `npm test` sets: a program under test must not appear to be
 * started by npm, unless the test sets them.
 */
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
  // Its child processes may still write.
  child.once('close', () => {
    ended = true;
    news();
  });
  const send = (to: number, signal: NodeJS.Signals) => {
    try {
      process.kill(to, signal);
    } catch {
      // The process is gone.
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

/** Returns true if a process runs; an exited process that was not reaped does not. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return !/\) Z /.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ENOENT' && process.platform !== 'linux';
  }
}

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import type { RunEvent, RunRequest } from './runner.ts';

export type FileResult = Extract<RunEvent, { type: 'file' }>;

/** Result of a request to run tests. */
export interface Outcome {
  files: FileResult[];
  /** The current file when the time ran out; its runner was killed. */
  hung: string | null;
}

/** A runner in its own process group, restarted after one that hung. */
export class Worker {
  readonly #home: string;
  readonly #env: NodeJS.ProcessEnv;
  #child: ChildProcess | null = null;

  constructor(home: string, env: NodeJS.ProcessEnv) {
    this.#home = home;
    this.#env = env;
  }

  /** Returns the runner; null if it was stopped before it was ready. */
  async #running(): Promise<ChildProcess | null> {
    if (this.#child?.connected) return this.#child;
    const child = fork(join(this.#home, 'test/mutants/runner.ts'), [], {
      cwd: this.#home,
      env: this.#env,
      detached: true,
      stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
    });
    this.#child = child;
    const [event] = (await Promise.race([
      once(child, 'message'),
      once(child, 'exit').then(() => [{ type: 'gone' }]),
    ])) as [RunEvent | { type: 'gone' }];
    if (event.type === 'ready') return child;
    if (this.#child !== child) return null;
    throw new Error('the runner of the tests does not start');
  }

  /**
   * Runs files up to the first that fails.
   *
   * @param limitOf time limit of a file, in milliseconds
   */
  async run(request: RunRequest, limitOf: (file: string) => number): Promise<Outcome> {
    const child = await this.#running();
    const outcome: Outcome = { files: [], hung: null };
    if (child === null) return { ...outcome, hung: request.files[0] ?? null };
    const current = () => request.files[outcome.files.length] ?? null;
    const { promise, resolve } = Promise.withResolvers<void>();
    const giveUp = () => {
      outcome.hung = current() ?? request.files.at(-1) ?? null;
      void this.stop().then(resolve);
    };
    let timer = setTimeout(giveUp, limitOf(request.files[0]!));
    const onMessage = (event: RunEvent) => {
      if (event.type === 'done') return resolve();
      if (event.type !== 'file') return;
      clearTimeout(timer);
      outcome.files.push(event);
      timer = setTimeout(giveUp, limitOf(current() ?? event.file));
    };
    const onExit = () => {
      outcome.hung ??= current();
      this.#child = null;
      resolve();
    };
    child.on('message', onMessage).once('exit', onExit);
    child.send(request);
    await promise;
    clearTimeout(timer);
    child.off('message', onMessage).off('exit', onExit);
    return outcome;
  }

  /** Ends the runner and every process that it started. */
  async stop(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (!child?.pid || child.exitCode !== null || child.signalCode !== null) return;
    const gone = once(child, 'exit');
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      child.kill('SIGKILL');
    }
    await gone;
  }
}

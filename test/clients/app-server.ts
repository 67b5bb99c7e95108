import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

interface Message {
  id?: number;
  method?: string;
  params?: Record<string, unknown>;
  result?: unknown;
  error?: unknown;
}

/** A Codex process that runs several user turns: `codex app-server`, driven by JSON lines. */
export interface AppServer {
  /** Starts a thread and returns its id. */
  startThread(): Promise<string>;
  /** Runs one user turn to its end, and returns the last message of the agent. Rejects when it failed. */
  turn(threadId: string, text: string): Promise<string>;
  /** Starts a user turn, waits for `reached`, interrupts it, and resolves with its final status. */
  interrupted(threadId: string, text: string, reached: () => Promise<unknown>): Promise<string>;
  /** Forks the thread; returns the id of the copy. */
  fork(threadId: string): Promise<string>;
  /** Makes the client compact the thread; resolves when that turn has ended. */
  compact(threadId: string): Promise<void>;
  close(): void;
}

/**
 * Starts the program.
 *
 * @param apiKey key that the provider of the prepared home reads from the environment
 */
export async function startAppServer(program: string, home: string, apiKey = 'sk-test'): Promise<AppServer> {
  const env = {
    ...process.env,
    CODEX_HOME: join(home, 'codex'),
    BRIDGE_API_KEY: apiKey,
    HTTPS_PROXY: 'http://127.0.0.1:9',
    ALL_PROXY: 'http://127.0.0.1:9',
    NO_PROXY: '127.0.0.1,localhost',
  };
  const child: ChildProcessWithoutNullStreams = spawn(program, ['app-server'], { cwd: join(home, 'work'), env });
  let nextId = 1;
  const answers = new Map<number, (message: Message) => void>();
  const listeners = new Set<(message: Message) => void>();
  createInterface({ input: child.stdout }).on('line', (line) => {
    const message = JSON.parse(line) as Message;
    if (message.id !== undefined && message.method === undefined) answers.get(message.id)?.(message);
    else for (const listener of [...listeners]) listener(message);
  });
  const write = (message: object) => child.stdin.write(`${JSON.stringify(message)}\n`);
  const call = (method: string, params: object) =>
    new Promise<Record<string, unknown>>((resolve, reject) => {
      const id = nextId;
      nextId += 1;
      answers.set(id, ({ result, error }) =>
        error ? reject(new Error(JSON.stringify(error))) : resolve(result as Record<string, unknown>),
      );
      write({ id, method, params });
    });

  /** Resolves with the final status of the turn that `begin` starts. */
  async function ending(begin: () => Promise<unknown>): Promise<{ status: string; detail: string }> {
    const { promise, resolve } = Promise.withResolvers<{ status: string; detail: string }>();
    const listener = ({ method, params }: Message) => {
      if (method !== 'turn/completed') return;
      const { status = '' } = (params?.turn ?? {}) as { status?: string };
      resolve({ status, detail: JSON.stringify(params).slice(0, 500) });
    };
    listeners.add(listener);
    try {
      await begin();
      return await promise;
    } finally {
      listeners.delete(listener);
    }
  }
  async function toItsEnd(begin: () => Promise<unknown>): Promise<void> {
    const { status, detail } = await ending(begin);
    if (status !== 'completed') throw new Error(`the turn ended as ${status}: ${detail}`);
  }
  async function answered(begin: () => Promise<unknown>): Promise<string> {
    let text = '';
    const listener = ({ method, params }: Message) => {
      const item = (params?.item ?? {}) as { type?: string; text?: string };
      if (method === 'item/completed' && item.type === 'agentMessage') text = item.text ?? '';
    };
    listeners.add(listener);
    try {
      await toItsEnd(begin);
      return text;
    } finally {
      listeners.delete(listener);
    }
  }
  const startTurn = (threadId: string, text: string) =>
    call('turn/start', { threadId, input: [{ type: 'text', text }] });

  await call('initialize', { clientInfo: { name: 'holdfast_test', version: '1' } });
  write({ method: 'initialized' });
  return {
    async startThread() {
      const { thread } = await call('thread/start', {});
      return (thread as { id: string }).id;
    },
    turn: (threadId, text) => answered(() => startTurn(threadId, text)),
    async interrupted(threadId, text, reached) {
      const { status } = await ending(async () => {
        const { turn } = await startTurn(threadId, text);
        await reached();
        await call('turn/interrupt', { threadId, turnId: (turn as { id: string }).id });
      });
      return status;
    },
    async fork(threadId) {
      const { thread } = await call('thread/fork', { threadId });
      return (thread as { id: string }).id;
    },
    compact: (threadId) => toItsEnd(() => call('thread/compact/start', { threadId })),
    close: () => void child.kill('SIGTERM'),
  };
}

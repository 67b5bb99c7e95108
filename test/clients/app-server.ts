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

/** A Codex process that holds several user turns: `codex app-server`, spoken to in JSON lines. */
export interface AppServer {
  /** Starts a thread and returns its id. */
  startThread(): Promise<string>;
  /** Runs one user turn to its end. Rejects when it failed. */
  turn(threadId: string, text: string): Promise<void>;
  close(): void;
}

export async function startAppServer(program: string, home: string): Promise<AppServer> {
  const env = {
    ...process.env,
    CODEX_HOME: join(home, 'codex'),
    BRIDGE_API_KEY: 'sk-test',
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

  await call('initialize', { clientInfo: { name: 'holdfast_test', version: '1' } });
  write({ method: 'initialized' });
  return {
    async startThread() {
      const { thread } = await call('thread/start', {});
      return (thread as { id: string }).id;
    },
    async turn(threadId, text) {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      const listener = ({ method, params }: Message) => {
        if (method !== 'turn/completed') return;
        const { status } = (params?.turn ?? {}) as { status?: string };
        if (status === 'completed') resolve();
        else reject(new Error(`the turn ended as ${status}: ${JSON.stringify(params).slice(0, 500)}`));
      };
      listeners.add(listener);
      try {
        await call('turn/start', { threadId, input: [{ type: 'text', text }] });
        await promise;
      } finally {
        listeners.delete(listener);
      }
    },
    close: () => void child.kill('SIGTERM'),
  };
}

import { execFile } from 'node:child_process';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import type { Client, Mode } from './client.ts';
import { installPython, pythonEnv, pythonIn } from './python.ts';

const packages = ['llm==0.36', 'llm-openai-plugin==0.7'];

const weather = `def weather(city: str) -> str:
    "Returns the weather of a city."
    return f"clear in {city}"
`;

/** A conversation of `llm` on the command line: each turn is a process, which continues the one before from its log. */
const mode = (model: string, streams: boolean): Mode => ({
  transport: 'HTTP',
  name: `${model}${streams ? '' : ' --no-stream'}`,
  streams,
  rewrites: true,
  async open(at) {
    const program = join(dirname(pythonIn(at.scratch, 'llm')), 'llm');
    let asked = 0;
    return {
      async ask(text) {
        const continued = asked > 0 ? ['--continue'] : [];
        const how = [...continued, ...(streams ? [] : ['--no-stream'])];
        const running = promisify(execFile)(program, ['prompt', '-m', model, '--functions', weather, ...how, text], {
          cwd: at.home,
          env: { ...pythonEnv(at), LLM_USER_PATH: at.home },
        });
        // It reads a standard input that is no terminal to its end.
        running.child.stdin?.end();
        const { stdout } = await running;
        asked += 1;
        return stdout;
      },
      close() {},
    };
  },
});

/** Simon Willison's `llm`, with its own models for the Responses API. */
export const llm: Client = {
  name: 'llm',
  page: 'llm',
  install: (scratch) => installPython(scratch, 'llm', packages),
  modes: [mode('gpt-5.5', true), mode('gpt-5.5', false)],
};

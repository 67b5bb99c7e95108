import { execFile } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { BASE_URL, snippetAfter } from '../docs/snippets.ts';
import type { Client } from './client.ts';
import { runProgram } from './codex.ts';
import { installNpm } from './install.ts';

const packages = ['opencode-ai@1.18.33'];

/** Time for one run of the program, in seconds. */
const RUN_SECONDS = 150;

/** Returns the settings that the page shows, with another address. */
const settings = async (baseURL: string) =>
  (await snippetAfter('docs/clients/opencode.md', '<!-- run: config -->')).replace(BASE_URL, baseURL);

/**
 * The real opencode with the settings of its page. It runs each turn in a process of its own that continues the stored session.
 */
export const opencode: Client = {
  name: 'opencode',
  page: 'opencode',
  besides: 1,
  toolCall: '[call:bash {"command":"echo clear","description":"Prints a word"}]',
  async install(scratch) {
    const folder = await installNpm(scratch, packages);
    // It puts the program of this platform in place. npm does not run it, since scripts of packages are off.
    const cwd = join(folder, 'node_modules', 'opencode-ai');
    await promisify(execFile)(process.execPath, ['postinstall.mjs'], { cwd });
    return 'opencode-ai 1.18.33';
  },
  modes: [
    {
      transport: 'HTTP',
      streams: true,
      async open({ baseURL, apiKey, scratch, home }) {
        const folder = await installNpm(scratch, packages);
        const work = join(home, 'work');
        await mkdir(work);
        await writeFile(join(work, 'opencode.json'), await settings(new URL(baseURL).origin));
        const env: NodeJS.ProcessEnv = { PATH: process.env.PATH, HOME: home, OPENAI_API_KEY: apiKey };
        for (const name of ['CONFIG', 'DATA', 'CACHE', 'STATE']) env[`XDG_${name}_HOME`] = join(home, name);
        Object.assign(env, {
          OPENCODE_DISABLE_AUTOUPDATE: '1',
          OPENCODE_DISABLE_MODELS_FETCH: '1',
          OPENCODE_DISABLE_LSP_DOWNLOAD: '1',
          HTTPS_PROXY: 'http://127.0.0.1:9',
          NO_PROXY: '127.0.0.1,localhost',
        });
        let begun = false;
        return {
          async ask(text) {
            // An argument with spaces would be quoted in the prompt.
            const args = ['run', '--format', 'json', ...(begun ? ['--continue'] : []), ...text.split(' ')];
            const program = join(folder, 'node_modules', '.bin', 'opencode');
            const { code, output } = await runProgram(program, args, { cwd: work, env, seconds: RUN_SECONDS });
            if (code !== 0) throw new Error(`opencode ended with ${code}: ${output.slice(-600)}`);
            begun = true;
            const events = output
              .split('\n')
              .filter((line) => line.startsWith('{'))
              .map((line) => JSON.parse(line) as { type: string; part?: { text?: string }; error?: unknown });
            const failed = events.find(({ type }) => type === 'error');
            if (failed) throw new Error(JSON.stringify(failed.error));
            return events.filter(({ type }) => type === 'text').at(-1)?.part?.text ?? '';
          },
          close() {},
        };
      },
    },
  ],
};

import { writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { digestOf, expectedDigest, startSimulator } from '../../src/testing/index.ts';
import { installPython, pythonIn } from '../clients/python.ts';
import { startProgram } from '../support/program.ts';
import { freePort } from '../support/worker-process.ts';
import type { StartUpstream } from './upstream.ts';

const VERSION = '1.108.7';

/** The proxy of LiteLLM, in front of the simulated provider. */
export const startLiteLLM: StartUpstream = async (scratch) => {
  await installPython(scratch, 'litellm', [`litellm[proxy]==${VERSION}`]);
  const simulator = await startSimulator({ eventGapMs: 15 });
  const port = await freePort();
  const config = join(scratch, `litellm-${port}.yaml`);
  await writeFile(
    config,
    JSON.stringify({
      model_list: [
        { model_name: 'm', litellm_params: { model: 'openai/m', api_base: simulator.url, api_key: 'sk-behind' } },
      ],
      litellm_settings: { telemetry: false, num_retries: 0 },
    }),
  );
  const proxy = startProgram(
    join(dirname(pythonIn(scratch, 'litellm')), 'litellm'),
    ['--config', config, '--host', '127.0.0.1', '--port', String(port)],
    {
      env: {
        LITELLM_MASTER_KEY: 'sk-test',
        LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY: 'true',
        LITELLM_LOCAL_MODEL_COST_MAP: 'True',
        DISABLE_ADMIN_UI: 'True',
        PYTHONUNBUFFERED: '1',
      },
    },
  );
  const url = `http://127.0.0.1:${port}/v1`;
  await proxy.says('Uvicorn running');
  return {
    name: 'LiteLLM proxy',
    version: VERSION,
    url,
    model: 'm',
    // It accepts upgrades and serves none of this backend: `auto` has to go over to HTTP.
    transports: ['auto', 'http'],
    env: {},
    callsTool: '[call:look {}]',
    takesLong: '[deltas:300]',
    refused: { model: 'not-served', input: 'Hi.' },
    sawExactly: (response, items) => digestOf(response as never) === expectedDigest({ items: items as never }),
    async close() {
      proxy.signal('SIGTERM');
      await proxy.gone;
      await simulator.close();
    },
  };
};

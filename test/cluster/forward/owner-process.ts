import { createForwardTokens } from '../../../src/cluster/forward/envelope.ts';
import { startInternalServer } from '../../../src/cluster/forward/receiver.ts';
import { createReader } from '../../../src/intake/pool.ts';
import { systemClock } from '../../../src/system.ts';
import { secrets } from './support.ts';

/**
 * Runs an owner as a separate process. Prints its URL, then one line per request that it serves and per sender that
 * leaves.
 */
const say = (line: string) => process.stdout.write(`${line}\n`);
const server = await startInternalServer({
  host: '127.0.0.1',
  port: 0,
  workerId: () => 'worker-a',
  forwardTokens: createForwardTokens({ secrets: secrets(), clock: systemClock }),
  clock: systemClock,
  limits: { bodyBytes: 1_000_000 },
  reader: createReader({ logger: { error: () => {} } }),
  deadlines: { forwardSilence: 300, slowClient: 60_000 },
  serve({ turnId }, _request, sink) {
    say(`served ${turnId}`);
    sink.onGone(() => say(`gone ${turnId}`));
    sink.event('response.created', '{}', false);
  },
  logger: { debug: (_fields, message) => say(message), warn: () => {}, error: () => {} },
});
say(server.url);

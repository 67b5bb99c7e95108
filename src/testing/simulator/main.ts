import { parseArgs } from 'node:util';
import { startSimulator } from './simulator.ts';
import type { SimulatorOptions } from './types.ts';

const USAGE = `Runs the upstream simulator. The first line on stdout is its base URL.

  --port N            default: ephemeral       --host H            default 127.0.0.1
  --seed N            default: random          --deltas N          deltas per text, default 3
  --latency-ms N      before the first event   --event-gap-ms N    between events
  --reasoning         answers begin with a reasoning item
  --no-telemetry      no codex.rate_limits before each response
  --turn-state MODE   off, handshake, metadata or both
  --no-websocket      refuse upgrades with 426, or with --websocket-status N
  --exit-with-stdin   end when stdin ends, so that a killed parent leaves nothing behind
`;

const { values } = parseArgs({
  options: {
    port: { type: 'string' },
    host: { type: 'string' },
    seed: { type: 'string' },
    deltas: { type: 'string' },
    'latency-ms': { type: 'string' },
    'event-gap-ms': { type: 'string' },
    reasoning: { type: 'boolean' },
    'no-telemetry': { type: 'boolean' },
    'turn-state': { type: 'string' },
    'no-websocket': { type: 'boolean' },
    'websocket-status': { type: 'string' },
    'exit-with-stdin': { type: 'boolean' },
    help: { type: 'boolean', short: 'h' },
  },
});

if (values.help) {
  process.stdout.write(USAGE);
  process.exit(0);
}

const number = (text: string | undefined) => (text === undefined ? undefined : Number(text));
const refusal = number(values['websocket-status']) ?? (values['no-websocket'] ? 426 : undefined);
const options: SimulatorOptions = {
  host: values.host,
  port: number(values.port),
  seed: number(values.seed),
  deltaCount: number(values.deltas),
  latencyMs: number(values['latency-ms']),
  eventGapMs: number(values['event-gap-ms']),
  reasoning: values.reasoning,
  telemetry: !values['no-telemetry'],
  turnState: values['turn-state'] as SimulatorOptions['turnState'],
  webSocket: refusal ?? 'on',
};

const simulator = await startSimulator(options);
process.stdout.write(`${simulator.url}\n`);
process.stderr.write(`seed ${simulator.seed}; journal at ${new URL('/__journal', simulator.url)}\n`);

const stop = () => void simulator.close().then(() => process.exit(0));
process.once('SIGINT', stop);
process.once('SIGTERM', stop);
if (values['exit-with-stdin']) process.stdin.resume().once('end', stop).once('error', stop);

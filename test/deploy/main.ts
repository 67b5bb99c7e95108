import { say, startTopology, turn } from './topology.ts';

/**
 * Runs the topology of `deploy/compose/compose.yaml` without Docker, and prints the time from its start to the first turn
 * through the balancer. "node" as argument uses the balancer of the tests instead of nginx.
 */
const startedAt = performance.now();
const topology = await startTopology(process.argv[2] === 'node' ? 'node' : undefined);
try {
  const conversation = crypto.randomUUID();
  const first = await turn(topology, conversation, [say('Hello.')]);
  const ms = Math.round(performance.now() - startedAt);
  const second = await turn(topology, conversation, [say('Hello.'), ...first.output, say('Still there?')]);
  console.table([
    ...Object.entries(topology.steps).map(([step, at]) => ({ step, 'ms since start': at })),
    { step: `first turn (${first.status} ${first.outcome}, through ${topology.balancer})`, 'ms since start': ms },
  ]);
  console.log(`The next turn, at another worker: ${second.status} ${second.outcome}`);
  process.exitCode = first.status === 200 && second.status === 200 ? 0 : 1;
} finally {
  await topology.close();
}

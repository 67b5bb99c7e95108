import { type Exploration, type Weakness, weaknesses } from '../verification/model/index.ts';

const seconds = (ms: number) => (ms / 1000).toFixed(ms < 10_000 ? 2 : 0);
const count = (n: number) => n.toLocaleString('en-GB');

/** Returns one line of the exploration table. */
export function explored(name: string, exploration: Exploration): string {
  const { exhausted, states, transitions, depth, beyond, milliseconds, bytes, violation } = exploration;
  const verdict = violation ? `BROKEN: ${violation.property}` : exhausted ? 'exhausted' : 'PARTIAL';
  return [
    name.padEnd(32),
    verdict.padEnd(10),
    `${count(states).padStart(11)} states`,
    `${count(transitions).padStart(12)} steps`,
    `depth ${String(depth).padStart(2)}`,
    `${seconds(milliseconds).padStart(6)} s`,
    `${String(Math.round(bytes / 1e6)).padStart(5)} MB`,
    beyond > 0 ? `${count(beyond)} steps beyond the bounds` : '',
  ].join('  ');
}

/** Returns one line of the table of weakenings. */
export function weakened(name: Weakness, { violation, states, milliseconds }: Exploration): string {
  const caught = violation ? `${violation.property}, ${violation.actions.length} steps` : 'SURVIVED';
  const { what } = weaknesses[name];
  return `${name.padEnd(20)} ${caught.padEnd(28)} ${count(states).padStart(9)} states ${seconds(milliseconds).padStart(6)} s  ${what}`;
}

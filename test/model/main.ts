import { readFile, writeFile } from 'node:fs/promises';
import { parseArgs } from 'node:util';
import {
  createWorld,
  describeBounds,
  describeProperty,
  type Exploration,
  explore,
  replay,
  tellStory,
  traceOf,
  type Weakness,
  weaknesses,
} from '../verification/model/index.ts';
import { full, type NamedBounds, small } from './bounds.ts';
import { explored, weakened } from './table.ts';

/**
 * `npm run test:model`: explores the ownership protocol to stated bounds, and fails when a guarantee is violated.
 * `--small`: only the bounds of `npm test`; `--only TEXT`: only bounds whose name contains it; `--most N`: at most N
 * states; `--weakenings`: plants each weakness of the fence, and fails when one survives; `--replay FILE`: prints a
 * stored trace.
 */
const { values } = parseArgs({
  options: {
    small: { type: 'boolean' },
    only: { type: 'string', default: '' },
    most: { type: 'string' },
    weakenings: { type: 'boolean' },
    stories: { type: 'boolean' },
    replay: { type: 'string' },
    trace: { type: 'string', default: 'model-trace.json' },
  },
});

/** Prints the shortest path to the violation, and stores it. */
async function tell(exploration: Exploration, file: string): Promise<void> {
  const { bounds, weakness, violation } = exploration;
  console.log(`\n${describeProperty(violation!.property)} Not so, within ${describeBounds(bounds)}:\n`);
  console.log(tellStory(createWorld(bounds, weakness), violation!.actions));
  await writeFile(file, `${JSON.stringify(traceOf(exploration), null, 1)}\n`);
  console.log(`\nkept in ${file}; again: npm run test:model -- --replay ${file}`);
}

async function exploreAll(list: readonly NamedBounds[]): Promise<number> {
  let states = 0;
  let ms = 0;
  let partial = 0;
  for (const { name, bounds } of list.filter((each) => each.name.includes(values.only))) {
    const exploration = explore({ bounds, ...(values.most ? { mostStates: Number(values.most) } : {}) });
    console.log(explored(name, exploration));
    states += exploration.states;
    ms += exploration.milliseconds;
    if (exploration.violation) {
      await tell(exploration, values.trace);
      return 1;
    }
    if (!exploration.exhausted) partial += 1;
  }
  const verdict = partial === 0 ? 'all exhausted' : `PARTIAL: ${partial} of them not exhausted`;
  console.log(`${states.toLocaleString('en-GB')} states in ${(ms / 1000).toFixed(0)} s, ${verdict}; no promise broken`);
  return 0;
}

async function plantAll(): Promise<number> {
  let survivors = 0;
  for (const name of (Object.keys(weaknesses) as Weakness[]).filter((each) => each.includes(values.only))) {
    const exploration = explore({ bounds: weaknesses[name].bounds, weakness: name });
    console.log(weakened(name, exploration));
    if (exploration.violation === null) survivors += 1;
    else if (values.stories) await tell(exploration, values.trace);
  }
  console.log(`${survivors} survived`);
  return survivors === 0 ? 0 : 1;
}

async function replayFile(file: string): Promise<number> {
  const trace = JSON.parse(await readFile(file, 'utf8'));
  const { story, broken } = replay(trace);
  console.log(`${describeBounds(trace.bounds)}${trace.weakness ? `; weakened: ${trace.weakness}` : ''}\n\n${story}\n`);
  console.log(broken ? `Broken: ${describeProperty(trace.property)}` : 'This does not break anything any more.');
  return broken ? 1 : 0;
}

if (values.replay) process.exit(await replayFile(values.replay));
if (values.weakenings) process.exit(await plantAll());
process.exit(await exploreAll(values.small ? small : full));

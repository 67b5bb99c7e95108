import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deadlineKnobs, limitKnobs, settings } from '../../src/config.ts';
import { catalogue } from '../../src/errors.ts';
import { outcomeTable } from '../../src/resolve/outcomes.ts';
import { writeMetrics } from './metrics-table.ts';

const README = join(import.meta.dirname, '..', '..', 'README.md');

const table = (head: string[], rows: string[][]) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

/** The generated parts of the README, by the names of their markers. */
const parts: Record<string, () => string> = {
  outcomes: () =>
    table(
      ['`x-holdfast-outcome`', 'means', 'the client gets'],
      outcomeTable().map(({ outcome, meaning, http }) => [`\`${outcome}\``, meaning, http]),
    ),
  settings: () =>
    table(
      ['variable', 'default', 'meaning'],
      settings.map(({ variable, default: value, description }) => [`\`${variable}\``, value, description]),
    ),
  knobs: () =>
    table(
      ['variable', 'default', 'meaning'],
      [...Object.values(deadlineKnobs), ...Object.values(limitKnobs)].map((knob) => [
        `\`${knob.variable}\``,
        String(knob.default),
        knob.description,
      ]),
    ),
  errors: () =>
    table(
      ['`bridge_code`', 'status', '`code`', 'what to do'],
      Object.entries(catalogue).map(([name, { status, code, action }]) => [
        `\`${name}\``,
        String(status),
        `\`${code}\``,
        action,
      ]),
    ),
};

/** Returns the README as it is, and with its tables generated from the code. */
export async function renderReadme(): Promise<{ current: string; rendered: string }> {
  const current = await readFile(README, 'utf8');
  const rendered = current.replace(/(<!-- (\w+) -->\n)[\s\S]*?(<!-- \/\2 -->)/g, (whole, open, name, close) =>
    parts[name] ? `${open}${parts[name]()}\n${close}` : whole,
  );
  return { current, rendered };
}

if (import.meta.main) {
  await writeFile(README, (await renderReadme()).rendered);
  await writeMetrics();
}

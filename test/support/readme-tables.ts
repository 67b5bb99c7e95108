import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { deadlineKnobs, limitKnobs, settings } from '../../src/config.ts';
import { catalogue } from '../../src/errors.ts';
import { outcomeTable } from '../../src/resolve/outcomes.ts';
import type { Outcome } from '../../src/resolve/types.ts';
import { writeCommands } from './commands-page.ts';
import { writeMetrics } from './metrics-table.ts';
import { writeOptions } from './setting-options.ts';

const ROOT = join(import.meta.dirname, '..', '..');

/** Pages with generated tables. */
export const pages = ['README.md', 'docs/errors.md', 'docs/settings.md'] as const;

const table = (head: string[], rows: string[][]) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');

const upstreams = "The upstream's answer.";
const refusal = (code: keyof typeof catalogue) => `${catalogue[code].status} \`${code}\``;

/** The client's answer over HTTP, by outcome. */
export const answers: Record<Outcome, string> = {
  created: upstreams,
  live_reuse: upstreams,
  stale_recovery: upstreams,
  forwarded: "The owner's answer, with the owner's own outcome if the owner placed the request.",
  forked: upstreams,
  reattached: "The running turn's events from the start, then live.",
  superseded: upstreams,
  parallel_lane: upstreams,
  passed_through: upstreams,
  wrong_instance: `${refusal('bridge_wrong_instance')} with the rest of that worker's lease as Retry-After.`,
  expired_continuity: `${refusal('bridge_session_expired')}, code \`${catalogue.bridge_session_expired.code}\`.`,
  token_invalid: `${refusal('bridge_token_invalid')}.`,
  refused: 'The status of its `bridge_code`, with Retry-After if a retry can help.',
};

/** The generated tables, by the names of their markers. */
const parts: Record<string, () => string> = {
  outcomes: () =>
    table(
      ['`x-holdfast-outcome`', 'means', 'the client gets'],
      outcomeTable().map(({ outcome, meaning }) => [`\`${outcome}\``, meaning, answers[outcome]]),
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

/** Returns a page as it is, and with its tables generated from the code. */
export async function renderPage(page: (typeof pages)[number]): Promise<{ current: string; rendered: string }> {
  const current = await readFile(join(ROOT, page), 'utf8');
  const rendered = current.replace(/(<!-- (\w+) -->\n)[\s\S]*?(<!-- \/\2 -->)/g, (whole, open, name, close) =>
    parts[name] ? `${open}${parts[name]()}\n${close}` : whole,
  );
  return { current, rendered };
}

if (import.meta.main) {
  for (const page of pages) await writeFile(join(ROOT, page), (await renderPage(page)).rendered);
  await writeMetrics();
  await writeOptions();
  await writeCommands();
}

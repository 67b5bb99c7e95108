import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { catalogue, type Definition } from '../../src/observe/metrics/catalogue.ts';

const DOCUMENT = join(import.meta.dirname, '..', '..', 'docs', 'metrics.md');

const labelsOf = ({ labels }: Definition): string =>
  Object.entries(labels)
    .map(([label, values]) => (values.length > 0 ? `\`${label}\` (${values.join(', ')})` : `\`${label}\``))
    .join('; ') || '-';

function table(): string {
  const rows = Object.entries(catalogue).map(([name, definition]) => [
    `\`${name}\``,
    definition.kind,
    definition.help,
    labelsOf(definition),
  ]);
  const head = ['metric', 'kind', 'meaning', 'labels'];
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

/** Returns docs/metrics.md as it is, and with its table generated from the catalogue. */
export async function renderMetrics(): Promise<{ current: string; rendered: string }> {
  const current = await readFile(DOCUMENT, 'utf8');
  const rendered = current.replace(
    /(<!-- metrics -->\n)[\s\S]*?(<!-- \/metrics -->)/,
    (_whole, open, close) => `${open}${table()}\n${close}`,
  );
  return { current, rendered };
}

/** Writes docs/metrics.md. */
export async function writeMetrics(): Promise<void> {
  await writeFile(DOCUMENT, (await renderMetrics()).rendered);
}

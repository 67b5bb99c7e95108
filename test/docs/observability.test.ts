import { readFile } from 'node:fs/promises';
import { pino } from 'pino';
import { expect, it } from 'vitest';
import { startTestBridge } from '../support/bridge.ts';
import { post } from '../support/client.ts';

it('docs/observability.md documents every field of a turn’s log line, and no other', async () => {
  const lines: Record<string, unknown>[] = [];
  const logger = pino({ level: 'info', base: null }, { write: (text) => void lines.push(JSON.parse(text)) });
  const at = await startTestBridge({ logger });
  await post(at.url, { model: 'm', stream: true, store: false, input: 'one' });
  await at.close();
  const logged = Object.keys(lines.find(({ msg }) => msg === 'turn')!);
  const text = await readFile('docs/observability.md', 'utf8');
  const [table] = /<!-- turn line -->[\s\S]*<!-- \/turn line -->/.exec(text)!;
  const told = [...table.matchAll(/^\| (`[^|]+) \|/gm)].flatMap(([, fields]) =>
    [...fields!.matchAll(/`(\w+)`/g)].map(([, name]) => name!),
  );
  expect(told.toSorted()).toEqual(logged.filter((name) => !['level', 'time', 'msg'].includes(name)).toSorted());
});

import { copyFile, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ABSENT, CHART, plainManifests, secretVariables, settable } from './chart.ts';

/**
 * Writes what is derived in `deploy`: the chart's copy of the alerts, the names in its schema, and the plain manifests.
 */
await copyFile('deploy/prometheus/alerts.yml', join(CHART, 'files', 'alerts.yml'));
const file = join(CHART, 'values.schema.json');
const schema = JSON.parse(await readFile(file, 'utf8'));
schema.properties.settings.propertyNames.enum = settable;
schema.properties.secretFiles.properties.keys.items.enum = secretVariables;
await writeFile(file, `${JSON.stringify(schema, null, 2)}\n`);
const manifests = await plainManifests();
if (!manifests) throw new Error(ABSENT);
for (const [name, text] of Object.entries(manifests)) await writeFile(join('deploy', 'kubernetes', name), text);

// From a vitest JSON report: the ten slowest files, in seconds, and one line that names the files with failures.
import { readFileSync } from 'node:fs';
import { relative } from 'node:path';

const { testResults } = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const took = ({ startTime, endTime }) => (endTime - startTime) / 1_000;
const path = ({ name }) => relative('.', name);
console.log('slowest test files:');
for (const file of testResults.toSorted((a, b) => took(b) - took(a)).slice(0, 10))
  console.log(`${took(file).toFixed(1).padStart(7)} s  ${path(file)}`);
const failed = testResults.filter(({ status }) => status === 'failed');
if (failed.length > 0) console.log(`failed test files: ${failed.map(path).join(', ')}`);

import { execFileSync } from 'node:child_process';

/** Prints the number of files and the unpacked size of the package. Fails when it is larger than LIMIT bytes. */
const LIMIT = 940_000;
const output = execFileSync('npm', ['pack', '--dry-run', '--json'], {
  encoding: 'utf8',
  stdio: ['ignore', 'pipe', 'inherit'],
});
// The output of the scripts that npm runs before packing precedes the report.
const [{ entryCount, unpackedSize }] = JSON.parse(output.slice(output.search(/^\[$/m))) as [
  { entryCount: number; unpackedSize: number },
];
console.log(
  `package: ${entryCount} files, ${(unpackedSize / 1_000).toFixed(0)} kB unpacked (limit ${LIMIT / 1_000} kB)`,
);
if (unpackedSize > LIMIT) process.exitCode = 1;

#!/usr/bin/env node
// Says what is missing in a line that every Node can print, then starts the program: the sources of a clone, else the
// built files of a package.
import { existsSync } from 'node:fs';

const sources = new URL('../src/cli.ts', import.meta.url);
const built = new URL('../dist/cli.js', import.meta.url);
const [major, minor] = process.versions.node.split('.').map(Number);
const isClone = existsSync(sources);

function needs(what) {
  console.error(`holdfast: ${what}`);
  process.exit(1);
}

if (major < 22 || (major === 22 && minor < 19)) {
  const here = isClone ? ' (in a clone: `npm ci`, which installs one, then `npm start`)' : '';
  needs(`Node 22.19 or newer is needed; this is ${process.versions.node}${here}.`);
}
if (isClone && process.features.typescript) await import(sources.href);
else if (existsSync(built)) await import(built.href);
else if (isClone)
  needs(
    `this Node (${process.versions.node}) does not run TypeScript: use Node 22.19, or 23.6 or newer, or run \`npm run build\` first.`,
  );
else needs('this package is not complete: neither dist nor src is there. Install it again.');

#!/usr/bin/env node
// Starts the program: the sources of a clone, else the built files of a package. An older Node hands over to the one that
// `npm ci` has installed in the clone. Where neither is possible, one line that every Node can print says what is missing.
import { spawn } from 'node:child_process';
import { accessSync, constants, existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const sources = new URL('../src/cli.ts', import.meta.url);
const built = new URL('../dist/cli.js', import.meta.url);
const bundled = fileURLToPath(
  new URL(`../node_modules/node/bin/node${process.platform === 'win32' ? '.exe' : ''}`, import.meta.url),
);
const [major, minor] = process.versions.node.split('.').map(Number);
const isClone = existsSync(sources);
const isOld = major < 22 || (major === 22 && minor < 19);
const hasProgram = isClone && process.features.typescript ? sources : existsSync(built) ? built : null;

function needs(what) {
  console.error(`holdfast: ${what}`);
  process.exit(1);
}

/** Runs the same command line under the bundled Node, and ends as it ends. */
function handOver() {
  const child = spawn(bundled, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal));
  if (process.env.npm_lifecycle_event !== undefined && process.platform !== 'win32') {
    // npm signals only the shell that runs this process, which ends without a word to it.
    const { ppid } = process;
    setInterval(() => process.ppid !== ppid && child.kill('SIGTERM'), 500).unref();
  }
  child.once('error', (error) => needs(`the Node in ${bundled} does not start (${error.code}): run \`npm ci\` again.`));
  child.once('exit', (code, signal) => {
    if (signal === null) process.exit(code);
    process.removeAllListeners(signal);
    process.kill(process.pid, signal);
  });
}

/**
 * Largest size of V8's space for new objects, in MB, for a process that serves. V8 would grow it to eight times that under load,
 * which made no turn cheaper here (docs/benchmarks.md, Memory). It can only be set when a process starts.
 */
const NEW_SPACE = '--max-semi-space-size=8';

/** Starts this process over with that flag, under the same process id. Worker processes inherit it. */
function limitNewSpace() {
  const given = [...process.execArgv, process.env.NODE_OPTIONS ?? ''].some((option) => /semi[-_]space/.test(option));
  // A channel to the parent process would be closed.
  if (process.argv[2] !== 'serve' || given || process.connected || process.platform === 'win32') return;
  const args = [process.execPath, ...process.execArgv, NEW_SPACE, fileURLToPath(import.meta.url)];
  try {
    // A failure in the system itself would end the process.
    accessSync(process.execPath, constants.X_OK);
    process.execve?.(process.execPath, [...args, ...process.argv.slice(2)]);
  } catch {
    // Not permitted to this process: it needs more memory.
  }
}

if (!isOld && hasProgram) {
  limitNewSpace();
  await import(hasProgram.href);
} else if (isClone && process.execPath !== bundled && existsSync(bundled)) handOver();
else if (isOld) {
  const here = isClone ? ' (in a clone run `npm ci`, which installs one)' : '';
  needs(`Node 22.19 or newer is needed; this is ${process.versions.node}${here}.`);
} else if (isClone)
  needs(
    `this Node (${process.versions.node}) does not run TypeScript: use Node 22.19, or 23.6 or newer, or run \`npm ci\`, which installs one.`,
  );
else needs('this package is not complete: neither dist nor src is there. Install it again.');

import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

const ROOT = join(import.meta.dirname, '..', '..');

/** A text file of the repository. */
export interface Source {
  /** Path below the root, with `/`. */
  path: string;
  text: string;
}

/**
 * Reads all files with one of these endings at or below the given paths, without dependencies and recorded data.
 *
 * @param paths files or folders, relative to the root
 */
export function readSources(paths: readonly string[], endings: RegExp): Source[] {
  return paths.flatMap((path) => {
    if (endings.test(path)) return [{ path, text: readFileSync(join(ROOT, path), 'utf8') }];
    return readdirSync(join(ROOT, path), { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile() && endings.test(entry.name))
      .map((entry) => relative(ROOT, join(entry.parentPath, entry.name)))
      .filter((file) => !/node_modules|(?:^|\/)fixtures\//.test(file))
      .sort()
      .map((file) => ({ path: file, text: readFileSync(join(ROOT, file), 'utf8') }));
  });
}

/** Returns the number of the line at an offset, from 1. */
export const lineAt = (text: string, offset: number): number => text.slice(0, offset).split('\n').length;

/** Prints the problems that a check found, one on a line, and makes the process fail if there are any. */
export function report(check: string, problems: readonly string[], remedy: string): void {
  for (const problem of problems) console.error(problem);
  if (problems.length === 0) return;
  console.error(`${check}: ${problems.length} found. ${remedy}`);
  process.exitCode = 1;
}

import { join } from 'node:path';
import { parseSync } from 'oxc-parser';
import { describe, expect, it } from 'vitest';
import { readSources } from '../support/sources.ts';

/**
 * Folders and top-level files, from the lowest to the highest. Code imports only from its own line and from lines above it
 * in this list, so that no two folders import each other.
 */
const ORDER: readonly string[][] = [
  ['machines'],
  ['version.ts', 'system.ts', 'json.ts', 'log.ts', 'headers.ts', 'exclusive-socket.ts'],
  ['errors.ts'],
  ['runtime'],
  ['store'],
  ['transcript'],
  ['token'],
  ['resolve'],
  ['intake'],
  ['upstream'],
  ['config.ts', 'options.ts', 'setting-options.ts'],
  ['session'],
  ['http'],
  ['cluster'],
  ['observe'],
  ['admin', 'explorer'],
  ['storage.ts', 'worker.ts'],
  ['hooks.ts'],
  ['bridge.ts'],
  ['command-line.ts'],
  ['commands'],
  ['supervisor.ts', 'serve.ts', 'cli.ts', 'index.ts'],
  ['testing'],
];

/** Imports against the order. There are none; add none. */
const UPWARD: readonly string[] = [];

/** Import cycles, each with its files in order. There are none; add none. */
const CYCLES: readonly string[] = [];

/** Files with the files that they import, by type or by value. */
function importGraph(): Map<string, string[]> {
  const sources = readSources(['machines', 'src'], /\.ts$/);
  const files = new Set(sources.map(({ path }) => path));
  return new Map(
    sources.map(({ path, text }) => {
      const { staticImports, staticExports, dynamicImports } = parseSync(path, text).module;
      const named = [
        ...staticImports.map(({ moduleRequest }) => moduleRequest.value),
        ...staticExports.flatMap(({ entries }) => entries.flatMap(({ moduleRequest }) => moduleRequest?.value ?? [])),
        ...dynamicImports.map(({ moduleRequest }) => text.slice(moduleRequest.start + 1, moduleRequest.end - 1)),
      ];
      return [path, [...new Set(named.map((each) => join(path, '..', each)))].filter((each) => files.has(each))];
    }),
  );
}

/** Groups of files that import each other, directly or through others (Tarjan's strongly connected components). */
function cyclesOf(graph: Map<string, string[]>): string[] {
  const found: string[] = [];
  const index = new Map<string, number>();
  const lowest = new Map<string, number>();
  const stack: string[] = [];
  const visit = (file: string) => {
    index.set(file, index.size);
    lowest.set(file, index.get(file)!);
    stack.push(file);
    for (const next of graph.get(file)!) {
      if (!index.has(next)) visit(next);
      if (stack.includes(next)) lowest.set(file, Math.min(lowest.get(file)!, lowest.get(next)!));
    }
    if (lowest.get(file) !== index.get(file)) return;
    const group = stack.splice(stack.indexOf(file));
    if (group.length > 1) found.push(group.sort().join(', '));
  };
  for (const file of graph.keys()) if (!index.has(file)) visit(file);
  return found;
}

const placeOf = (path: string) => {
  const [top, below] = path.split('/') as [string, string];
  return top === 'machines' ? top : below;
};

describe('imports', () => {
  const graph = importGraph();

  it('No files import each other in a cycle', () => {
    expect(cyclesOf(graph).filter((cycle) => !CYCLES.includes(cycle))).toEqual([]);
  });

  it('Folders import only from folders below them', () => {
    const level = new Map(ORDER.flatMap((places, at) => places.map((place) => [place, at] as const)));
    const upward = [...graph].flatMap(([file, imports]) => {
      const from = placeOf(file);
      expect(level.has(from), `${from} has its place in ORDER`).toBe(true);
      return imports.flatMap((other) => {
        const to = placeOf(other);
        if (from === to || UPWARD.includes(`${from} > ${to}`)) return [];
        // Places on one line do not know each other, except the files of the top level.
        const isUp = level.get(to)! > level.get(from)! || (level.get(to) === level.get(from) && !to.endsWith('.ts'));
        return isUp ? [`${file} imports ${other}`] : [];
      });
    });
    expect(upward).toEqual([]);
  });
});

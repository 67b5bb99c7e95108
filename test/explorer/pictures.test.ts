import { describe, expect, it } from 'vitest';
import { sessionOutline } from '../../src/admin/views.ts';

const browser = new URL('../../src/explorer/browser/', import.meta.url);
const { columnsOf } = await import(new URL('tree.js', browser).href);
const { arrange } = await import(new URL('layout.js', browser).href);

interface Place {
  column: number;
  above: { from: number; to: number }[];
  below: number[];
  cut: boolean;
}
const turn = (id: string, parentTurnId: string | null) => ({ id, parentTurnId });

describe('drawing of the turn tree, newest first', () => {
  it('A linear conversation is drawn as one column', () => {
    const places: Place[] = columnsOf([turn('c', 'b'), turn('b', 'a'), turn('a', null)]);
    expect(places).toEqual([
      { column: 0, above: [], below: [0], cut: false },
      { column: 0, above: [{ from: 0, to: 0 }], below: [0], cut: false },
      { column: 0, above: [{ from: 0, to: 0 }], below: [], cut: false },
    ]);
  });

  it('A turn without a successor is drawn beside the line, with an edge to its parent', () => {
    const places: Place[] = columnsOf([turn('d', 'b'), turn('c', 'b'), turn('b', 'a'), turn('a', null)]);
    expect(places.map(({ column }) => column)).toEqual([0, 1, 0, 0]);
    expect(places[2]!.above).toEqual([
      { from: 0, to: 0 },
      { from: 1, to: 0 },
    ]);
    expect(places[2]!.below).toEqual([0]);
  });

  it('A turn whose parent is not in the list, as in a fork, is drawn with an open beginning', () => {
    const [place] = columnsOf([turn('b', 'elsewhere')]) as [Place];
    expect(place).toEqual({ column: 0, above: [], below: [], cut: true });
  });
});

interface Box {
  path: string;
  x?: number;
  y?: number;
  width: number;
  height: number;
  inside: Box[];
  arrows: { transitions: unknown[]; points: { x: number; y: number }[] }[];
}

describe('drawing of the machine', () => {
  const drawing: Box = arrange(sessionOutline());
  const all = (box: Box): Box[] => [box, ...box.inside.flatMap(all)];

  it('Every state is drawn inside its parent state, and no two states overlap', () => {
    const paths = all(drawing).map(({ path }) => path);
    expect(paths.toSorted()).toEqual(
      sessionOutline()
        .states.map(({ path }) => path)
        .toSorted(),
    );
    for (const { width, height, inside } of all(drawing)) {
      for (const [index, a] of inside.entries()) {
        expect(a.x! >= 0 && a.y! >= 0 && a.x! + a.width <= width && a.y! + a.height <= height).toBe(true);
        for (const b of inside.slice(index + 1)) {
          const areApart =
            a.x! + a.width <= b.x! || b.x! + b.width <= a.x! || a.y! + a.height <= b.y! || b.y! + b.height <= a.y!;
          expect([a.path, b.path, areApart]).toEqual([a.path, b.path, true]);
        }
      }
    }
  });

  it('Every transition to another state is part of exactly one arrow', () => {
    const drawn = all(drawing).flatMap(({ arrows }) => arrows.flatMap(({ transitions }) => transitions));
    const leading = sessionOutline().transitions.filter(({ from, to }) => to !== null && from !== to);
    expect(new Set(drawn).size).toBe(drawn.length);
    expect(drawn.length).toBeGreaterThanOrEqual(leading.length);
  });
});

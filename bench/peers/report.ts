import { percentile } from '../machine.ts';

/** One figure of one peer in every round; NaN where the round gave none. */
type Rounds = number[];

/** Results, by table, figure and peer. */
export class Results {
  readonly tables = new Map<string, Map<string, Map<string, Rounds>>>();
  readonly notes: string[] = [];

  set(table: string, figure: string, peer: string, round: number, value: number): void {
    const figures = this.tables.get(table) ?? new Map<string, Map<string, Rounds>>();
    this.tables.set(table, figures);
    const peers = figures.get(figure) ?? new Map<string, Rounds>();
    figures.set(figure, peers);
    const rounds = peers.get(peer) ?? [];
    peers.set(peer, rounds);
    while (rounds.length < round) rounds.push(Number.NaN);
    rounds[round] = value;
  }

  /**
   * Adds to every figure of a table what a peer adds to a base, round by round.
   *
   * @param figures names of the figures; each gets a second one, with `added` in front
   */
  addDifferences(base: string): void {
    for (const [table, figures] of this.tables) {
      for (const [figure, peers] of [...figures]) {
        const of = peers.get(base);
        if (!of || !figure.endsWith(' ms') || figure.startsWith('added ')) continue;
        for (const [peer, rounds] of peers) {
          if (peer === base) continue;
          for (const [round, value] of rounds.entries()) {
            this.set(table, `added ${figure}`, peer, round, value - of[round]!);
          }
        }
      }
    }
  }

  /** Returns the results as plain data. */
  data(): Record<string, Record<string, Record<string, Rounds>>> {
    const plain = (map: Map<string, unknown>): Record<string, unknown> =>
      Object.fromEntries([...map].map(([key, value]) => [key, value instanceof Map ? plain(value) : value]));
    return plain(this.tables) as ReturnType<Results['data']>;
  }
}

interface Spread {
  least: number;
  median: number;
  most: number;
}

export function spreadOf(rounds: Rounds): Spread | null {
  const values = rounds.filter(Number.isFinite);
  if (values.length === 0) return null;
  return { least: Math.min(...values), median: percentile(values, 0.5), most: Math.max(...values) };
}

const digits = (value: number) =>
  Math.abs(value) >= 100 ? value.toFixed(0) : Math.abs(value) >= 10 ? value.toFixed(1) : value.toFixed(2);

/** Returns `median (least to most)`; the median alone where there was one round; a dash where there was none. */
export function cell(rounds: Rounds | undefined): string {
  const spread = rounds && spreadOf(rounds);
  if (!spread) return '-';
  const { least, median, most } = spread;
  return least === most ? digits(median) : `${digits(median)} (${digits(least)} to ${digits(most)})`;
}

function markdown(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Returns the tables as markdown: a row for each peer, a column for each figure. */
export function tablesOf(results: Results, peers: readonly string[]): string {
  const parts: string[] = [];
  for (const [table, figures] of results.tables) {
    // Differences say what a proxy costs; the times themselves are in the data.
    const shown = [...figures.keys()].filter((figure) => !figures.has(`added ${figure}`));
    const rows = peers
      .filter((peer) => shown.some((figure) => figures.get(figure)!.has(peer)))
      .map((peer) => [peer, ...shown.map((figure) => cell(figures.get(figure)!.get(peer)))]);
    if (rows.length > 0) parts.push(`### ${table}\n\n${markdown(['', ...shown], rows)}`);
  }
  return parts.join('\n\n');
}

/** Returns one table of ratios: a peer's figure by that of others, round by round. */
export function ratiosOf(results: Results, peer: string, others: readonly string[]): string {
  const rows: string[][] = [];
  for (const [table, figures] of results.tables) {
    for (const [figure, peers] of figures) {
      const own = peers.get(peer);
      // The difference of two nearly equal times has no meaningful ratio.
      if (!own || figure.includes('loaded MiB')) continue;
      if (figures.has(`added ${figure}`)) continue;
      const cells = others.map((other) => {
        const of = peers.get(other);
        return cell(of && own.map((value, round) => (value > 0 && of[round]! > 0 ? value / of[round]! : Number.NaN)));
      });
      if (cells.some((each) => each !== '-')) rows.push([`${table}: ${figure}`, ...cells]);
    }
  }
  return markdown(['', ...others.map((other) => `by ${other}`)], rows);
}

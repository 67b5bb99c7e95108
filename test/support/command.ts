import { explain } from '../../src/commands/explain.ts';
import type { Output } from '../../src/commands/output.ts';

/** Output of a command, kept instead of printed. */
export interface KeptOutput extends Output {
  readonly text: string;
  readonly errors: string;
}

/** Creates an output that keeps what a command writes, as a pipe by default. */
export function keptOutput(terminal = false, { columns = 120, rows = 0 } = {}): KeptOutput {
  let text = '';
  let errors = '';
  return {
    out: (more) => void (text += more),
    err: (more) => void (errors += more),
    terminal,
    errTerminal: terminal,
    columns: terminal ? columns : 0,
    rows: terminal ? rows : 0,
    get text() {
      return text;
    },
    get errors() {
      return errors;
    },
  };
}

/** Returns what `holdfast explain` prints. */
export async function storyOf(id: string, url: string): Promise<string> {
  const output = keptOutput();
  await explain(id, { url }, output);
  return output.text;
}

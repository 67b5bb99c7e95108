import type { AskOptions } from '../command-line.ts';
import { asked } from './admin.ts';
import { type Output, printable, printJson, standardOutput } from './output.ts';

interface Story {
  story: string[];
  endsIn: unknown;
}

/**
 * Prints the readable trace of a session, response, turn or request.
 *
 * @throws `CommandFailed` with the error of the worker that was asked
 */
export async function explain(id: string, options: AskOptions, output: Output = standardOutput): Promise<void> {
  const answer = await (await asked(options)).json<Story>(`/admin/stories/${encodeURIComponent(id)}`);
  if (options.json) return printJson(output, answer);
  output.out(`${answer.story.map(printable).join('\n')}\n`);
  if (answer.endsIn !== null) output.out(`\nReplayed, it ends in ${JSON.stringify(answer.endsIn)}.\n`);
}

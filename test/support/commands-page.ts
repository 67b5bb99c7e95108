import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Commands, commandNames, runCommand } from '../../src/command-line.ts';

const PAGE = join(import.meta.dirname, '..', '..', 'docs', 'commands.md');

async function help(name: string): Promise<string> {
  let text = '';
  const args = [...name.split(' ').filter((each) => each !== ''), '--help'];
  await runCommand(args, {} as Commands, { writeOut: (more) => void (text += more) });
  return text;
}

/** Returns docs/commands.md with the help texts of the program itself. */
export async function renderCommands(): Promise<string> {
  const current = await readFile(PAGE, 'utf8');
  const texts = await Promise.all(
    ['', ...commandNames].map(async (name) => {
      const title = name === '' ? '' : `### holdfast ${name}\n\n`;
      return `${title}\`\`\`text\n${(await help(name)).trimEnd()}\n\`\`\`\n`;
    }),
  );
  return current.replace(
    /(<!-- help -->\n)[\s\S]*(<!-- \/help -->)/,
    (_, open: string, close: string) => `${open}${texts.join('\n')}${close}`,
  );
}

/** Writes the help texts to docs/commands.md. */
export const writeCommands = async (): Promise<void> => writeFile(PAGE, await renderCommands());

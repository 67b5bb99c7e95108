import { Command, CommanderError, type OutputConfiguration } from 'commander';
import { version } from './version.ts';

/** Values of the options. All commands accept all of them, before or after the command's name. */
export interface Options {
  port?: string;
  host?: string;
  workers?: string;
  url?: string;
}

/** The commands of the program. */
export interface Commands {
  serve(options: Options): Promise<void> | void;
  explain(id: string, options: Options): Promise<void> | void;
  inspect(sessions: string[], options: Options): Promise<void> | void;
}

const flags = {
  port: ['-p, --port <number>', 'port to listen on (PORT)'],
  host: ['--host <address>', 'address to listen on (HOST)'],
  workers: ['-w, --workers <number>', 'number of worker processes (HOLDFAST_WORKERS)'],
  url: ['--url <url>', 'base URL of a server on another machine'],
} as const satisfies Record<keyof Options, readonly [flags: string, description: string]>;

const serverPort = [flags.port[0], 'port of a server on this machine (PORT)'] as const;

/**
 * Runs the command that the arguments name; `serve` when they name none.
 *
 * @param args arguments of the program, without the program itself
 * @param output default: the standard streams
 * @returns the exit code: 2 for a usage error, which is printed, otherwise 0
 * @throws any error of the command
 */
export async function runCommand(
  args: readonly string[],
  commands: Commands,
  output: Pick<OutputConfiguration, 'writeOut' | 'writeErr'> = {},
): Promise<0 | 2> {
  const program = new Command('holdfast')
    .description('Durable sessions for the OpenAI Responses API.')
    .version(version, '-v, --version', 'print the version')
    .helpOption('-h, --help', 'print help')
    .helpCommand('help [command]', 'print the help of a command')
    .exitOverride()
    .configureOutput({ ...output, outputError: (text, write) => write(text.replace(/^error: /, 'holdfast: ')) })
    .showHelpAfterError('(--help lists commands and options)')
    .addHelpText(
      'after',
      '\nWithout a command, it serves. Everything else is set by environment variables; the README lists them.',
    );
  // Declared here as well, so that options may stand before the command; each command's help lists those that it uses.
  for (const [option, description] of Object.values(flags)) {
    program.addOption(program.createOption(option, description).hideHelp());
  }

  program
    .command('serve')
    .description('run the proxy')
    .option(...flags.port)
    .option(...flags.host)
    .option(...flags.workers)
    .action(() => commands.serve(program.opts()));
  program
    .command('explain')
    .description('explain what happened to a session, response, turn or request')
    .argument('<id>', 'id of a session, response, turn or request')
    .option(...flags.url)
    .option(...serverPort)
    .action((id: string) => commands.explain(id, program.opts()));
  program
    .command('inspect')
    .description('open the inspector in a browser')
    .argument('[session...]', 'ids of the sessions to show; default: a sample')
    .option(...flags.url)
    .option(...serverPort)
    .action((sessions: string[]) => commands.inspect(sessions, program.opts()));

  try {
    const { operands, unknown } = program.parseOptions([...args]);
    const namesNone = operands.length === 0 && !unknown.some((each) => each === '-h' || each === '--help');
    await program.parseAsync(namesNone ? ['serve', ...args] : args, { from: 'user' });
    return 0;
  } catch (error) {
    // Thrown after the help, the version or a usage error has been printed.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    throw error;
  }
}

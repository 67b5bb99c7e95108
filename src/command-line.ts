import { Argument, Command, CommanderError, InvalidArgumentError, Option, type OutputConfiguration } from 'commander';
import { version } from './version.ts';

/** Values of all options. Each command takes those that it declares, before or after its name. */
interface Values {
  port: number;
  host: string;
  workers: number;
  url: string;
  json: true;
  envFile: string;
  changed: true;
  state: string;
  owner: string;
  busy: true;
  search: string;
  limit: number;
  cursor: string;
  all: true;
  interval: number;
  once: true;
  window: '15m' | '1h' | '24h';
  dataDir: string;
  force: true;
}

type Options<Name extends keyof Values> = { [K in Name]?: Values[K] };

export type ServeOptions = Options<'port' | 'host' | 'workers'>;
/** Address of a running Holdfast. */
export type AskOptions = Options<'url' | 'port' | 'json'>;
export type SettingsOptions = Options<'json' | 'envFile'>;
export type ConfigPrintOptions = SettingsOptions & Options<'changed'>;
export type SessionsOptions = AskOptions & Options<'state' | 'owner' | 'busy' | 'search' | 'limit' | 'cursor' | 'all'>;
export type TopOptions = AskOptions & Options<'interval' | 'once' | 'window'>;
export type CopyOptions = SettingsOptions & Options<'dataDir' | 'force'>;

/** Exit code; nothing is 0. */
type Done = Promise<number | undefined> | Promise<void>;

/** The commands of the program. */
export interface Commands {
  serve(options: ServeOptions): Done;
  doctor(options: SettingsOptions): Done;
  configPrint(options: ConfigPrintOptions): Done;
  configCheck(options: SettingsOptions): Done;
  sessions(options: SessionsOptions): Done;
  top(options: TopOptions): Done;
  explain(id: string, options: AskOptions): Done;
  inspect(sessions: string[], options: AskOptions): Done;
  migrate(action: 'status' | 'apply', options: SettingsOptions): Done;
  backup(target: string, options: CopyOptions): Done;
  restore(source: string, options: CopyOptions): Done;
}

/** Returns a parser of whole numbers in a range. */
const whole = (min: number, max: number) => (text: string) => {
  const value = Number(text);
  if (/^\d+$/.test(text) && value >= min && value <= max) return value;
  throw new InvalidArgumentError(`It must be a whole number from ${min} to ${max}.`);
};

function webAddress(text: string): string {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol) && url.hostname !== '') return text;
  throw new InvalidArgumentError('It must be an address like http://127.0.0.1:8787.');
}

const option = (flags: string, description: string) => new Option(flags, description);

/** Every option, by the name of its value. */
const declared: Record<keyof Values, Option> = {
  port: option('-p, --port <number>', 'port to listen on (PORT)').argParser(whole(0, 65_535)),
  host: option('--host <address>', 'address to listen on (HOST)'),
  workers: option('-w, --workers <number>', 'number of worker processes (HOLDFAST_WORKERS)').argParser(whole(1, 256)),
  url: option('--url <url>', 'base URL of the running Holdfast; default: this machine').argParser(webAddress),
  json: option('--json', 'print JSON'),
  envFile: option('--env-file <file>', 'settings of this file, over those of the environment'),
  changed: option('--changed', 'only settings that differ from their defaults'),
  state: option('--state <state>', 'only sessions in this state').choices([
    'connecting',
    'live',
    'reconnecting',
    'stale',
    'closed',
  ]),
  owner: option('--owner <worker>', 'only sessions of this worker'),
  busy: option('--busy', 'only sessions with a running turn'),
  search: option('--search <id>', 'only the session of this response, turn, session, thread or key'),
  limit: option('--limit <number>', 'sessions of one page; default: 50').argParser(whole(1, 500)),
  cursor: option('--cursor <cursor>', 'page after the one that printed this cursor'),
  all: option('--all', 'all pages'),
  interval: option('--interval <seconds>', 'time between two measurements; default: 2').argParser(whole(1, 3_600)),
  once: option('--once', 'measure once and end, as in a pipe'),
  window: option('--window <span>', 'span of time that the figures are for; default: 15m').choices([
    '15m',
    '1h',
    '24h',
  ]),
  dataDir: option('--data-dir <directory>', 'data directory (HOLDFAST_DATA_DIR)'),
  force: option('--force', 'replace what is there'),
};

/** What one command is. */
interface Declaration {
  name: string;
  description: string;
  arguments?: Argument[];
  options: (keyof Values)[];
  /** Lines of the examples, without the program's name. */
  examples: [line: string, purpose: string][];
  /** What the exit codes mean, beside 0 and 2. */
  codes?: string;
  run(operands: string[], options: object): Done;
}

const ask = ['url', 'port', 'json'] as const satisfies (keyof Values)[];
const ASKED = '1: there is no such thing, or the request was refused. 3: no Holdfast answers there.';

const declarations = (commands: Commands): Declaration[] => [
  {
    name: 'serve',
    description: 'run the proxy',
    options: ['port', 'host', 'workers'],
    examples: [
      ['serve', 'on http://127.0.0.1:8787, with an embedded PostgreSQL'],
      ['serve --workers 4', 'four processes behind one port'],
    ],
    codes: '1: it cannot serve, and says why.',
    run: (_, options) => commands.serve(options),
  },
  {
    name: 'doctor',
    description: 'find out what is wrong with settings, database, upstream and machine, and how to mend it',
    options: ['json', 'envFile'],
    examples: [
      ['doctor', 'with the settings of this environment'],
      ['doctor --env-file /etc/holdfast/holdfast.env', 'with those of a service'],
    ],
    codes: '1: at least one fault was found.',
    run: (_, options) => commands.doctor(options),
  },
  {
    name: 'config print',
    description: 'print every setting with its value and its source; secrets are masked',
    options: ['changed', 'json', 'envFile'],
    examples: [['config print --changed', 'only what differs from the defaults']],
    codes: '1: the settings cannot be read.',
    run: (_, options) => commands.configPrint(options),
  },
  {
    name: 'config check',
    description: 'check the settings without starting anything',
    options: ['json', 'envFile'],
    examples: [['config check --env-file holdfast.env', 'before a restart']],
    codes: '1: the settings are not valid.',
    run: (_, options) => commands.configCheck(options),
  },
  {
    name: 'sessions',
    description: 'list the sessions of all workers',
    options: ['state', 'owner', 'busy', 'search', 'limit', 'cursor', 'all', ...ask],
    examples: [
      ['sessions --busy', 'what runs now'],
      ['sessions --search resp_123', 'the session of a response'],
      ['sessions --all --json', 'everything, for a script'],
    ],
    codes: ASKED,
    run: (_, options) => commands.sessions(options),
  },
  {
    name: 'top',
    description: 'watch the overview of all workers, running turns and failures',
    options: ['window', 'interval', 'once', ...ask],
    examples: [
      ['top', 'until q; 1, 2, 3 choose the span, o, w, r, f a part'],
      ['top --window 24h --once', 'what the last day was like'],
      ['top --once --json', 'one measurement, for a script'],
    ],
    codes: ASKED,
    run: (_, options) => commands.top(options),
  },
  {
    name: 'explain',
    description: 'explain what happened to a session, response, turn or request, and what its client got',
    arguments: [new Argument('<id>', 'id of a session, response, turn or request, or its first characters')],
    options: [...ask],
    examples: [
      ['explain 0d9f3a51', 'by the first characters of an id'],
      ['explain resp_123 --json', 'with the record of events'],
    ],
    codes: ASKED,
    run: ([id], options) => commands.explain(id!, options),
  },
  {
    name: 'inspect',
    description: 'check that the inspector can be used from here, and open it in a browser',
    arguments: [new Argument('[session...]', 'ids of the sessions to show; default: a sample')],
    options: [...ask],
    examples: [
      ['inspect 0d9f3a51-1f0c-4a63-8b9e-6a4f6f2d7c11', 'one session'],
      ['inspect --json', 'the address and what was checked'],
    ],
    codes: '1: the inspector cannot be used. 3: no Holdfast answers there.',
    run: (sessions, options) => commands.inspect(sessions, options),
  },
  {
    name: 'migrate status',
    description: 'show which migrations the database has and which are pending; changes nothing',
    options: ['json', 'envFile'],
    examples: [['migrate status --json', 'for a script: `pending` lists the names']],
    codes: '1: the database cannot be used.',
    run: (_, options) => commands.migrate('status', options),
  },
  {
    name: 'migrate apply',
    description: 'execute the pending migrations, as the next start would',
    options: ['json', 'envFile'],
    examples: [['migrate apply', 'before a rolling upgrade, with a user who may create tables']],
    codes: '1: the database cannot be used; nothing was changed.',
    run: (_, options) => commands.migrate('apply', options),
  },
  {
    name: 'backup',
    description: 'copy the embedded database and its secrets while it runs or rests, and prove that the copy starts',
    arguments: [new Argument('<directory>', 'new directory for the backup')],
    options: ['dataDir', 'force', 'json', 'envFile'],
    examples: [
      ['backup /backups/monday', 'a consistent copy, also while Holdfast serves'],
      ['backup /backups/latest --force', 'replaces the one that is there, once the new one is proved'],
    ],
    codes: '1: there is no complete backup; one that was there before is untouched.',
    run: ([target], options) => commands.backup(target!, options),
  },
  {
    name: 'restore',
    description: 'put a backup in place of the embedded database',
    arguments: [new Argument('<directory>', 'directory of the backup')],
    options: ['dataDir', 'force', 'json', 'envFile'],
    examples: [
      ['restore /backups/monday', 'into an empty data directory'],
      ['restore /backups/monday --force', 'sets the database that is there aside, and says where it is'],
    ],
    codes: '1: nothing was restored; what was there before is untouched.',
    run: ([source], options) => commands.restore(source!, options),
  },
];

/** Names of the commands. */
export const commandNames: readonly string[] = declarations({} as Commands).map(({ name }) => name);

/** Commands that have commands of their own. */
const groups: Record<string, string> = {
  config: 'print or check the settings',
  migrate: 'look at or change the tables of the database',
};

const indented = (lines: string[]) => lines.map((line) => `  ${line}\n`).join('');

function helpAfter({ examples, codes }: Declaration): string {
  const width = Math.max(...examples.map(([line]) => line.length));
  const shown = examples.map(([line, purpose]) => `holdfast ${line.padEnd(width)}  ${purpose}`);
  return `\nExamples:\n${indented(shown)}\nExit codes: 0: done.${codes ? ` ${codes}` : ''}`;
}

const HELP = [
  'Without a command, it serves. Everything else is set by environment variables; `holdfast config print` lists them.',
  '',
  'Exit codes: 0: done. 1: failed, or a fault was found. 2: the command line is wrong. 3: no Holdfast answers.',
].join('\n');

function copyOf(given: Option, description = given.description): Option {
  const copy: Option = Object.assign(Object.create(Object.getPrototypeOf(given)), given);
  copy.description = description;
  return copy;
}

/** Returns the text of an option as its user would write it. */
const written = (name: string) => declared[name as keyof Values].long!;

/**
 * Creates the program: the commands, each with its options, examples and exit codes.
 *
 * @param exit called with the exit code of the command that ran
 */
function createProgram(commands: Commands, output: OutputConfiguration, exit: (code: number) => void): Command {
  const dress = (command: Command) =>
    command
      .helpOption('-h, --help', 'print help')
      .exitOverride()
      .configureOutput({ ...output, outputError: (text, write) => write(text.replace(/^error: /, 'holdfast: ')) })
      .showHelpAfterError('(--help lists commands and options)');
  const program = dress(new Command('holdfast'))
    .description('Durable sessions for the OpenAI Responses API.')
    .version(version, '-v, --version', 'print the version')
    .helpCommand('help [command]', 'print the help of a command')
    .addHelpText('after', `\n${HELP}`);
  // Declared here as well, so that options may stand before the command.
  for (const each of Object.values(declared)) {
    program.addOption(copyOf(each).hideHelp());
  }
  const parents = new Map(
    Object.entries(groups).map(([name, description]) => [
      name,
      dress(program.command(name)).description(description).helpCommand(false),
    ]),
  );
  for (const declaration of declarations(commands)) {
    const [first, second] = declaration.name.split(' ') as [string, string?];
    const command = dress(second ? parents.get(first)!.command(second) : program.command(first))
      .description(declaration.description)
      .addHelpText('after', helpAfter(declaration));
    for (const argument of declaration.arguments ?? []) command.addArgument(argument);
    for (const name of declaration.options) {
      const asks = name === 'port' && declaration.options.includes('url');
      command.addOption(
        asks ? copyOf(declared[name], 'port of the running Holdfast on this machine (PORT)') : declared[name],
      );
    }
    command.action(async () => {
      const given = Object.fromEntries(Object.entries(program.opts()).filter(([, value]) => value !== undefined));
      const foreign = Object.keys(given).find((name) => !declaration.options.includes(name as keyof Values));
      if (foreign !== undefined) {
        command.error(`error: '${declaration.name}' does not take ${written(foreign)}`, { exitCode: 2 });
      }
      const code = await declaration.run(
        command.processedArgs.flat().filter((each) => each !== undefined),
        given,
      );
      if (typeof code === 'number') exit(code);
    });
  }
  return program;
}

/**
 * Runs the command that the arguments name; `serve` when they name none.
 *
 * @param args arguments of the program, without the program itself
 * @param output default: the standard streams
 * @returns the exit code: 2 for a usage error, which is printed, otherwise that of the command
 * @throws any error of the command
 */
export async function runCommand(
  args: readonly string[],
  commands: Commands,
  output: Pick<OutputConfiguration, 'writeOut' | 'writeErr'> = {},
): Promise<number> {
  let exitCode = 0;
  const program = createProgram(commands, output, (code) => {
    exitCode = code;
  });
  try {
    const { operands, unknown } = program.parseOptions([...args]);
    const namesNone = operands.length === 0 && !unknown.some((each) => each === '-h' || each === '--help');
    await program.parseAsync(namesNone ? ['serve', ...args] : args, { from: 'user' });
    return exitCode;
  } catch (error) {
    // Thrown after the help, the version or a usage error has been printed.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    throw error;
  }
}

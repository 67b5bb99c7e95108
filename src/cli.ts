import cluster from 'node:cluster';
import { type Commands, runCommand } from './command-line.ts';
import { fail } from './commands/output.ts';

// Each command loads its own code: a help text or a question to a running server need not wait for the rest.
const commands: Commands = {
  serve: async (options) => (await import('./serve.ts')).serve(options),
  doctor: async (options) => (await import('./commands/doctor/index.ts')).doctor(options),
  configPrint: async (options) => (await import('./commands/config.ts')).configPrint(options),
  configCheck: async (options) => (await import('./commands/config.ts')).configCheck(options),
  sessions: async (options) => (await import('./commands/sessions.ts')).sessions(options),
  top: async (options) => (await import('./commands/top.ts')).top(options),
  explain: async (id, options) => (await import('./commands/explain.ts')).explain(id, options),
  inspect: async (sessions, options) => (await import('./commands/inspect.ts')).inspect(sessions, options),
  migrate: async (action, options) => (await import('./commands/migrate.ts')).migrate(action, options),
  backup: async (target, options) => (await import('./commands/backup.ts')).backup(target, options),
  restore: async (source, options) => (await import('./commands/backup.ts')).restore(source, options),
};

async function main(): Promise<void> {
  // A closed output stream must not end the process.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => {});
  if (cluster.isWorker) return (await import('./serve.ts')).serveWorker();
  process.exitCode = await runCommand(process.argv.slice(2), commands);
}

main().catch(fail);

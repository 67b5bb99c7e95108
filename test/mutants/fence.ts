import pg from 'pg';
import { afterAll, beforeAll } from 'vitest';
import { type Subject, storeContract } from '../store/contract.ts';
import { postgresSubject } from '../store/postgres-subject.ts';
import { freshDatabase } from '../support/database.ts';
import { sweepOver } from './sweeping.ts';

/**
 * Runs the store contract for many mutants of the database functions in one database: the mutant's functions replace
 * those that the migrations created, and are restored afterwards.
 */
let subject: Subject;
let admin: pg.Client;
beforeAll(async () => {
  const database = await freshDatabase({ empty: true });
  subject = await postgresSubject(database);
  admin = new pg.Client({ connectionString: database.url });
  await admin.connect();
});
afterAll(async () => {
  await admin.end();
  await subject.dispose();
});

/** Returns the statements that create functions, by function name. */
async function functions(): Promise<Map<string, string>> {
  const { functions: statements } = await import('../../src/store/postgres/schema/index.ts');
  return new Map(statements.map((statement) => [/^create or replace function (\w+)/.exec(statement)![1]!, statement]));
}

const asleep = functions();

/** The group of the contract that is most likely to detect a change of a function. */
const groups: readonly [RegExp, string][] = [
  [/create/, 'create'],
  [/start/, 'start'],
  [/settle/, 'settle'],
  [/claim/, 'claim'],
  [/release|close/, 'release and close'],
  [/register|heartbeat|declare/, 'workers'],
  [/operate/, 'administration'],
];

sweepOver(async ({ closest }, kill) => {
  const [original, mutated] = [await asleep, await functions()];
  const changed = [...mutated].filter(([name, statement]) => original.get(name) !== statement);
  beforeAll(async () => {
    await admin.query('truncate worker, bridge_session, turn, shared_item cascade');
    for (const [, statement] of changed)
      await admin.query(statement).catch((error: Error) => {
        if (!/syntax error at/.test(error.message)) kill(`the database refuses it: ${error.message}`);
      });
  });
  afterAll(async () => {
    for (const [name] of changed) await admin.query(original.get(name)!);
  });
  const own = groups.find(([pattern]) => pattern.test(changed[0]?.[0] ?? 'start'))?.[1];
  storeContract('the store', async () => ({ ...subject, dispose: async () => {} }), closest ? own : undefined);
});

import { fence } from './fence.ts';
import { purge } from './purge.ts';
import { Tables } from './tables.ts';
import { workers } from './workers.ts';

/**
 * Changes of the tables, oldest first: `src/store/postgres/schema/tables.ts`, and one class for each change of a later
 * release. A released migration is never changed, and its name never reused. The first name also tells a database of a
 * release from one of the development versions before it.
 */
export const migrationsList = [{ name: '0001-initial', class: Tables }];

/**
 * The functions, each in one version only. They are replaced whenever a migration was executed, and only then: a worker of
 * an earlier release that starts again must not bring its own back. So a change of a function alone needs a migration
 * without statements.
 */
export const functions: readonly string[] = [...fence, ...workers, ...purge];

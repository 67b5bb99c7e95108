import { Migration } from '@mikro-orm/migrations';
import { claim } from './fence/claim.ts';
import { close } from './fence/close.ts';
import { create } from './fence/create.ts';
import { declareDead } from './fence/declare-dead.ts';
import { declareExpired } from './fence/declare-expired.ts';
import { heartbeat } from './fence/heartbeat.ts';
import { register } from './fence/register.ts';
import { release } from './fence/release.ts';
import { rows } from './fence/rows.ts';
import { settle } from './fence/settle.ts';
import { start } from './fence/start.ts';

/**
 * The fence functions. All are VOLATILE plpgsql, so under READ COMMITTED every statement in them sees what was committed
 * before that statement began. Each function **locks the session row first and reads everything else after that**. A claim
 * in a single statement cannot do so: it re-reads the locked row but not the rows joined to it, and would take sessions
 * from live owners.
 *
 * `lock_timeout` keeps backends from queueing behind a locked row. Its error counts as `unknown`.
 *
 * Old and new workers share the database during a rolling restart. A later change of a function's parameters, or of the
 * meaning of its answer, therefore needs a new function name.
 */
export class Fence extends Migration {
  override up(): void {
    const functions = [
      ...rows,
      create,
      start,
      settle,
      claim,
      release,
      close,
      register,
      heartbeat,
      declareExpired,
      declareDead,
    ];
    for (const statement of functions) this.addSql(statement);
  }
}

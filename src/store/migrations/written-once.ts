import { Migration } from '@mikro-orm/migrations';
import { claim } from './written-once/claim.ts';
import { create } from './written-once/create.ts';
import { settle } from './written-once/settle.ts';
import { start } from './written-once/start.ts';

/**
 * Makes a turn's row in `turn` be written once, when the turn has ended.
 *
 * **A running turn** is a row of `active_turn`, a small table that inherits from `turn`: a statement on `turn` sees both
 * tables, one on `only turn` sees ended turns. A start inserts there, and the end moves the row. Before this migration the
 * end updated indexed columns of the row in `turn`, which added a second version of the row and of its entry in each of
 * seven indexes for every turn. An append-only table also needs hardly any vacuum.
 *
 * No constraint spans both tables. An id that has ended must not start again, so a start checks `turn` **after** inserting
 * its own row into `active_turn`: there it waits for a copy of the call that is just ending under the same id.
 *
 * - `fork_turn_id`: the turn of another session at which this one began, if any. A session's head is that turn or one of
 *   its own, so whether a turn is a session's head is answered without an index over heads, which change with every turn.
 * - `changed_hour`: `updated_at`, rounded so that its index gets at most one entry per hour and session.
 * - `owner_worker_id` changes only with ownership, so its index does not prevent in-place updates by turns.
 *
 * Operators search response ids and keys without a scope, so the indexes over both start with the id; the janitor walks
 * turns in the order of their ends. These indexes are created first: reads continue until the first change of a table.
 *
 * The functions keep their behaviour except for the table. They are replaced within one transaction and work with workers
 * of either release: a turn that is active in `turn` itself is moved here, and one that an older start leaves there is
 * moved by its end.
 */
const statements = [
  'create index turn_ended_at_index on turn (ended_at)',
  `create unique index turn_response_key_unique on turn (holdfast_key(response_id), scope) where response_id is not null`,
  'create index session_key_hash_index on session_key (hash)',
  `create table active_turn (
     constraint active_turn_pkey primary key (id),
     constraint active_turn_session_id_unique unique (session_id),
     constraint active_turn_session_id_foreign
       foreign key (session_id) references bridge_session (id) on delete cascade,
     constraint active_turn_state_check check (state = 'active')
   ) inherits (turn) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)`,
  'create index active_turn_parent_turn_id_index on active_turn (parent_turn_id)',
  `with active as (delete from only turn where state = 'active' returning *)
   insert into active_turn select * from active`,
  'drop index turn_one_active_unique',
  'drop index turn_response_id_unique',
  'alter index turn_response_key_unique rename to turn_response_id_unique',
  'alter table bridge_session add column fork_turn_id text',
  `update bridge_session s set fork_turn_id = s.head_turn_id
     from turn t where t.id = s.head_turn_id and t.session_id <> s.id`,
  `alter table bridge_session
     add column changed_hour timestamp generated always as (date_trunc('hour', updated_at at time zone 'UTC')) stored`,
  'create index bridge_session_changed_hour_index on bridge_session (changed_hour, id)',
  `create index bridge_session_owner_worker_id_index on bridge_session (owner_worker_id, changed_hour)
    where owner_worker_id is not null`,
  `create index bridge_session_fork_turn_id_index on bridge_session (fork_turn_id) where fork_turn_id is not null`,
  create,
  start,
  settle,
  claim,
];

export class WrittenOnce extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}

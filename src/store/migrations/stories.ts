import { Migration } from '@mikro-orm/migrations';

/**
 * Traces of turns that ended badly, as recorded by a worker's flight recorder. Stored as `json` to keep them verbatim. They
 * are deleted with their session.
 */
const statements = [
  `create table session_story (
     turn_id text primary key,
     session_id text not null,
     record json not null,
     created_at timestamptz not null default now(),
     constraint session_story_session_id_foreign
       foreign key (session_id) references bridge_session (id) on delete cascade
   )`,
  'create index session_story_session_id_index on session_story (session_id, created_at)',
];

export class Stories extends Migration {
  override up(): void {
    for (const statement of statements) this.addSql(statement);
  }
}

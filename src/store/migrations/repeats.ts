import { Migration } from '@mikro-orm/migrations';

/**
 * Finds the turn that a request repeats, wherever it runs. Of scope and fingerprint the index holds a hash of eight
 * bytes: it is read only for requests that may be repeats, and every start of a turn writes it.
 */
export class Repeats extends Migration {
  override up(): void {
    this.addSql('create index turn_request_index on turn (hashtextextended(scope || request_fp, 0), started_at)');
  }
}

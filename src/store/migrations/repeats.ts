import { Migration } from '@mikro-orm/migrations';

/**
 * Index for finding the turn that a request repeats, on any worker. It stores an eight-byte hash of scope and fingerprint
 * to stay small: it is read only for requests that may be repeats, but written at every start of a turn.
 */
export class Repeats extends Migration {
  override up(): void {
    this.addSql('create index turn_request_index on turn (hashtextextended(scope || request_fp, 0), started_at)');
  }
}

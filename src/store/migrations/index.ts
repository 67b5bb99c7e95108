import { Fence } from './fence.ts';
import { Lines } from './lines.ts';
import { LostRows } from './lost-rows.ts';
import { Operate } from './operate.ts';
import { Purge } from './purge.ts';
import { Repeats } from './repeats.ts';
import { SharedItems } from './shared-items.ts';
import { Stories } from './stories.ts';
import { Tables } from './tables.ts';
import { TurnFactsColumn } from './turn-facts.ts';
import { WrittenOnce } from './written-once.ts';

/** Every migration, oldest first. A released name is never changed or reused. */
export const migrationsList = [
  { name: '0001-tables', class: Tables },
  { name: '0002-fence', class: Fence },
  { name: '0003-stories', class: Stories },
  { name: '0004-shared-items', class: SharedItems },
  { name: '0005-turn-facts', class: TurnFactsColumn },
  { name: '0006-operate', class: Operate },
  { name: '0007-lines', class: Lines },
  { name: '0008-written-once', class: WrittenOnce },
  { name: '0009-purge', class: Purge },
  { name: '0010-repeats', class: Repeats },
  { name: '0011-lost-rows', class: LostRows },
];

import { Fence } from './fence.ts';
import { Lines } from './lines.ts';
import { Operate } from './operate.ts';
import { Purge } from './purge.ts';
import { SharedItems } from './shared-items.ts';
import { Stories } from './stories.ts';
import { Tables } from './tables.ts';
import { TurnFactsColumn } from './turn-facts.ts';
import { WrittenOnce } from './written-once.ts';

/** Every migration, oldest first. A name that was released is never changed or reused. */
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
];

/**
 * The ids of a turn and its ancestors, never leaving the scope. `union` drops what is there already, so a circle ends;
 * the rows come in no order, and `rootFirst` puts them into that of the line.
 */
const line = `
    with recursive line as (
      select t.id, t.parent_turn_id
        from turn t
       where t.id = $2::text and t.scope = $1::text
      union
      select parent.id, parent.parent_turn_id
        from line join turn parent on parent.id = line.parent_turn_id
       where parent.scope = $1::text
    )`;

/** The line with everything it said. Only ids are carried through the recursion; rows and items are fetched once. */
export const lineage = {
  name: 'holdfast_lineage',
  text: `${line}
    select holdfast_turn_json(t)::text as turn, items.input, items.output, items.shared
      from line
      join turn t on t.id = line.id
      left join turn_items items on items.turn_id = line.id`,
} as const;

/** The line as far as recognising its items needs it. */
export const lineForms = {
  name: 'holdfast_line',
  text: `${line}
    select t.id, t.parent_turn_id as "parentTurnId", t.forms from line join turn t on t.id = line.id`,
} as const;

/**
 * Puts the turns of a line into order.
 *
 * @param turns the turn and its ancestors, each once
 * @param turnId the turn at the end of the line
 * @returns the same turns, root first; empty when `turnId` is not among them
 */
export function rootFirst<T extends { id: string; parentTurnId: string | null }>(
  turns: readonly T[],
  turnId: string,
): T[] {
  const left = new Map(turns.map((turn) => [turn.id, turn]));
  const ordered: T[] = [];
  for (let turn = left.get(turnId); turn; turn = left.get(turn.parentTurnId ?? '')) {
    left.delete(turn.id);
    ordered.push(turn);
  }
  return ordered.reverse();
}

/** Large items of a scope by their hashes. */
export const sharedItems = {
  name: 'holdfast_shared_items',
  text: 'select hash, data from shared_item where scope = $1::text and hash = any($2::text[])',
} as const;

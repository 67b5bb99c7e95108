/**
 * Ids of a turn and its ancestors within the scope. `union` drops known rows, so a cycle terminates. The rows are
 * unordered; `rootFirst` sorts them.
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

/** The line with its rows and items. The recursion carries only ids; rows and items are fetched once. */
export const lineage = {
  name: 'holdfast_lineage',
  text: `${line}
    select holdfast_turn_json(t)::text as turn, items.input, items.output, items.shared
      from line
      join turn t on t.id = line.id
      left join turn_items items on items.turn_id = line.id`,
} as const;

/** The line reduced to what matching its items requires. */
export const lineForms = {
  name: 'holdfast_line',
  text: `${line}
    select t.id, t.parent_turn_id as "parentTurnId", t.forms from line join turn t on t.id = line.id`,
} as const;

/**
 * Sorts the turns of a line.
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

/**
 * A turn and its ancestors, root first, never leaving the scope. Only ids are carried through the recursion; rows and
 * items are fetched once it is complete.
 */
export const lineage = {
  name: 'holdfast_lineage',
  text: `
    with recursive line as (
      select t.id, t.parent_turn_id, 0 as distance
        from turn t
       where t.id = $2::text and t.scope = $1::text
      union all
      select parent.id, parent.parent_turn_id, line.distance + 1
        from line join turn parent on parent.id = line.parent_turn_id
       where parent.scope = $1::text
    ) cycle id set looped using path
    select holdfast_turn_json(t)::text as turn, items.input, items.output, items.shared
      from line
      join turn t on t.id = line.id
      left join turn_items items on items.turn_id = line.id
     where not line.looped
     order by line.distance desc`,
} as const;

/** Large items of a scope by their hashes. */
export const sharedItems = {
  name: 'holdfast_shared_items',
  text: 'select hash, data from shared_item where scope = $1::text and hash = any($2::text[])',
} as const;

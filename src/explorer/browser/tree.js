/**
 * Computes the columns of a turn tree drawn like a commit graph: one row per turn, the newest first. A column waits for
 * the parent of the turn above it; columns that wait for the same turn merge there. A turn without a successor starts a
 * column.
 *
 * @returns for each turn: its column, the columns that come in from above (including those that end in it), and the
 * columns that continue below
 */
export function columnsOf(turns) {
  const known = new Set(turns.map(({ id }) => id));
  let waiting = [];
  return turns.map(({ id, parentTurnId }) => {
    const before = waiting;
    let column = before.indexOf(id);
    if (column < 0) {
      column = before.indexOf(null);
      if (column < 0) column = before.length;
    }
    const parent = parentTurnId !== null && known.has(parentTurnId) ? parentTurnId : null;
    const after = before.map((each) => (each === id ? null : each));
    after[column] = parent;
    while (after.length > 0 && after.at(-1) === null) after.pop();
    waiting = after;
    return {
      column,
      above: before.flatMap((each, from) => (each === null ? [] : [{ from, to: each === id ? column : from }])),
      below: after.flatMap((each, from) => (each === null ? [] : [from])),
      /** True when the turn's parent is not in the list. */
      cut: parentTurnId !== null && parent === null,
    };
  });
}

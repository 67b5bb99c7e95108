/**
 * Columns of a turn tree, drawn like a commit graph: one row a turn, the newest first. A column waits for the parent of
 * the turn above it; where several wait for the same one they meet. Turns that nothing continues begin a column.
 *
 * @returns for each turn: its column, the columns that come in from above (with those that end in it), and those that
 *   go on below
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
      /** It begins at a turn that is not among these. */
      cut: parentTurnId !== null && parent === null,
    };
  });
}

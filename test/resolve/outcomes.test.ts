import { describe, expect, it } from 'vitest';
import { outcomeTable } from '../../src/resolve/outcomes.ts';
import { rows } from '../../src/resolve/table.ts';
import { answers } from '../support/readme-tables.ts';

describe('the table of outcomes', () => {
  const table = outcomeTable();

  it('Every outcome occurs once, with a sentence and an effect', () => {
    expect(new Set(table.map(({ outcome }) => outcome)).size).toBe(table.length);
    for (const { outcome, meaning } of table)
      for (const text of [meaning, answers[outcome]]) expect(text).toMatch(/^\S.*\.$/);
  });

  it('The table of outcomes has every outcome of the decision rows', () => {
    const known = table.map(({ outcome }) => outcome);
    for (const row of rows) expect(known).toContain(row.outcome);
  });

  it('An outcome names the status and the code on which the client acts', () => {
    expect(answers.expired_continuity).toContain('400 `bridge_session_expired`, code `previous_response_not_found`');
    expect(answers.wrong_instance).toContain('409 `bridge_wrong_instance`');
    expect(answers.token_invalid).toContain('400 `bridge_token_invalid`');
  });
});

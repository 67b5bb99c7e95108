import { describe, expect, it } from 'vitest';
import { parseDirectives } from '../../src/testing/simulator/directives.ts';

const rounds = (text: string) =>
  parseDirectives(text).rounds.map((calls) => calls.map(({ tool, name, payload }) => `${tool} ${name} ${payload}`));

describe('directives in a user message', () => {
  it('finds none in ordinary text, brackets and all', () => {
    expect(rounds('please fix a[call] and [[x]] in [call:] today')).toEqual([]);
    expect(rounds('unclosed [call:shell {"a":1}')).toEqual([]);
  });

  it('makes calls side by side parallel', () => {
    expect(rounds('do [call:a {"x":1}] and [call:b]')).toEqual([['function a {"x":1}', 'function b {}']]);
  });

  it('makes calls in double brackets one round each', () => {
    expect(rounds('[[call:a][call:b {"y":[1]}]]')).toEqual([['function a {}'], ['function b {"y":[1]}']]);
    expect(rounds('[[call:a]]')).toEqual([['function a {}']]);
  });

  it('reads JSON that holds brackets, quotes and escapes', () => {
    const json = '{"command":["bash","-c","echo \\"]}\\" [[ $x ]]"]}';
    expect(rounds(`run [call:shell ${json}] now`)).toEqual([[`function shell ${json}`]]);
  });

  it('gives custom tools free text, quoted or bare', () => {
    expect(rounds('[custom:apply_patch "*** Begin\\n[x]"]')).toEqual([['custom apply_patch *** Begin\n[x]']]);
    expect(rounds('[custom:note hello there]')).toEqual([['custom note hello there']]);
  });

  it('reads words to say and the number of deltas', () => {
    expect(parseDirectives('[say:well done] [deltas:40]')).toMatchObject({ say: 'well done', deltas: 40, rounds: [] });
  });
});

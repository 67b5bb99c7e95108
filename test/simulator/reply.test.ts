import { describe, expect, it } from 'vitest';
import { parseDirectives } from '../../src/testing/simulator/reply.ts';

const rounds = (text: string) =>
  parseDirectives(text).rounds.map((calls) => calls.map(({ tool, name, payload }) => `${tool} ${name} ${payload}`));

describe('directives in a user message', () => {
  it('Ordinary text with brackets holds no directives', () => {
    expect(rounds('please fix a[call] and [[x]] in [call:] today')).toEqual([]);
    expect(rounds('unclosed [call:shell {"a":1}')).toEqual([]);
  });

  it('Adjacent call directives are parallel calls', () => {
    expect(rounds('do [call:a {"x":1}] and [call:b]')).toEqual([['function a {"x":1}', 'function b {}']]);
  });

  it('Call directives in double brackets are one round each', () => {
    expect(rounds('[[call:a][call:b {"y":[1]}]]')).toEqual([['function a {}'], ['function b {"y":[1]}']]);
    expect(rounds('[[call:a]]')).toEqual([['function a {}']]);
  });

  it('Directive arguments may be JSON with brackets, quotes and escapes', () => {
    const json = '{"command":["bash","-c","echo \\"]}\\" [[ $x ]]"]}';
    expect(rounds(`run [call:shell ${json}] now`)).toEqual([[`function shell ${json}`]]);
  });

  it('Custom tools get free text, quoted or bare', () => {
    expect(rounds('[custom:apply_patch "*** Begin\\n[x]"]')).toEqual([['custom apply_patch *** Begin\n[x]']]);
    expect(rounds('[custom:note hello there]')).toEqual([['custom note hello there']]);
  });

  it('A directive sets the words of the answer and the number of deltas', () => {
    expect(parseDirectives('[say:well done] [deltas:40]')).toMatchObject({ say: 'well done', deltas: 40, rounds: [] });
  });
});

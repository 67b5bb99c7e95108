import { deadlineKnobs, distance, limitKnobs, type OptionKind, settings } from './config.ts';

/** One setting as an option of `createBridge`. */
export interface SettingOption {
  /** Path in the options, such as `upstream.url`. */
  option: string;
  /** Environment variable that the option fills. */
  variable: string;
  as: OptionKind;
  default: string;
  description: string;
  /** Unit of a number; null for other settings. */
  unit: 'ms' | 'bytes' | 'count' | null;
}

/** Every setting as an option, in the order of docs/settings.md. */
export const settingOptions: readonly SettingOption[] = [
  ...settings.map((setting) => ({ ...setting, unit: null })),
  ...[['deadlines', deadlineKnobs] as const, ['limits', limitKnobs] as const].flatMap(([section, knobs]) =>
    Object.entries(knobs).map(([name, knob]) => ({
      ...knob,
      option: `${section}.${name}`,
      as: 'number' as const,
      default: String(knob.default),
    })),
  ),
];

/** Sections whose first setting may be given alone: `upstream: 'https://...'` is `upstream: { url: 'https://...' }`. */
export const shorthands: ReadonlyMap<string, string> = new Map([
  ['upstream', 'upstream.url'],
  ['database', 'database.url'],
]);

const byOption = new Map(settingOptions.map((each) => [each.option, each]));
const sections = new Set(settingOptions.flatMap(({ option }) => (option.includes('.') ? [option.split('.')[0]!] : [])));
const byVariable = new Map(settingOptions.map(({ variable, option }) => [variable, option]));
const VARIABLE = new RegExp(`\\b(?:${[...byVariable.keys()].join('|')})\\b`, 'g');

/** Returns a text with the names of variables replaced by those of options. */
export const withOptionNames = (text: string): string =>
  text.replace(VARIABLE, (variable) => byVariable.get(variable) ?? variable);

/** Options as environment variables, with what is wrong about them. */
export interface GivenOptions {
  env: Record<string, string>;
  problems: string[];
  /** True if at least one setting was given as an option. */
  typed: boolean;
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === 'object' && value !== null && [Object.prototype, null].includes(Object.getPrototypeOf(value));

/**
 * Reads the options that are settings. An option that is undefined counts as not given. Empty text is refused: as a
 * variable it would mean the default, and a missing secret must not become one.
 *
 * @param options options of `createBridge`
 * @param others names of the options that are not settings, with the names of their members where those are fixed
 */
export function readOptions(options: object, others: Readonly<Record<string, readonly string[] | null>>): GivenOptions {
  const found: GivenOptions = { env: {}, problems: [], typed: false };
  const known = [
    ...byOption.keys(),
    ...sections,
    ...Object.entries(others).flatMap(([name, members]) => [name, ...(members ?? []).map((each) => `${name}.${each}`)]),
  ];
  const unknown = (path: string) => {
    const nearest = nearestTo(path, known);
    const shown = path.slice(0, 80);
    found.problems.push(`${shown} is not an option of createBridge${nearest ? `: did you mean ${nearest}?` : ''}`);
  };
  const take = (path: string, value: unknown) => {
    const setting = byOption.get(path);
    if (!setting) return unknown(path);
    if (value === undefined) return;
    const text = textOf(setting.as, value);
    if (typeof text !== 'string') return void found.problems.push(`${path} ${text.problem}`);
    found.typed = true;
    found.env[setting.variable] = text;
    // The variables of proxies have two spellings, and lower case wins.
    if (/^(?:HTTPS?|NO)_PROXY$/.test(setting.variable)) found.env[setting.variable.toLowerCase()] = text;
  };
  const members = (section: string, value: unknown, each: (path: string, member: unknown) => void) => {
    if (!isRecord(value)) {
      const more = section === 'database' ? '; a MikroORM is the option orm' : '';
      const alone = shorthands.has(section) ? 'a URL or ' : '';
      return void found.problems.push(`${section} must be ${alone}an object${more}`);
    }
    for (const [name, member] of Object.entries(value)) each(`${section}.${name}`, member);
  };

  for (const [name, value] of Object.entries(options)) {
    const alone = (typeof value === 'string' && shorthands.get(name)) || name;
    if (Object.hasOwn(others, name)) {
      const fixed = others[name];
      if (!fixed || value === undefined) continue;
      members(name, value, (path) => {
        if (!fixed.includes(path.slice(name.length + 1))) unknown(path);
      });
    } else if (sections.has(alone)) {
      if (value !== undefined) members(name, value, take);
    } else take(alone, value);
  }
  return found;
}

/** Returns the known path that a misspelled or misplaced one most likely means; null if none is near. */
function nearestTo(given: string, known: readonly string[]): string | null {
  const variable = byVariable.get(given);
  if (variable !== undefined) return variable;
  const leaf = given.split('.').at(-1)!.toLowerCase();
  const elsewhere = known.filter((path) => path.split('.').at(-1)!.toLowerCase() === leaf);
  const candidates = elsewhere.length > 0 ? elsewhere : known;
  const [closest] = candidates
    .map((path) => ({ path, away: distance(given.toLowerCase(), path.toLowerCase()) }))
    .sort((a, b) => a.away - b.away);
  if (!closest) return null;
  return elsewhere.length > 0 || closest.away <= Math.max(2, Math.floor(leaf.length / 2)) ? closest.path : null;
}

type Text = string | { problem: string };

/** Returns a value as the text of its variable. Problems contain no part of the value, which may be a secret. */
function textOf(as: OptionKind, value: unknown): Text {
  switch (as) {
    case 'text':
      return ofText(value);
    case 'number':
      return typeof value === 'number' ? String(value) : { problem: 'must be a number' };
    case 'switch':
      return typeof value === 'boolean' ? (value ? 'on' : 'off') : { problem: 'must be true or false' };
    case 'proxy':
      return value === false ? '' : ofText(value, 'must be the URL of a proxy, or false for none');
    case 'list':
      return ofList(value, ofText);
    case 'keys':
      return ofList(value, (entry) => {
        const { tenant, key } = isRecord(entry) ? entry : {};
        const [name, secret] = [ofText(tenant), ofText(key)];
        if (typeof name !== 'string' || typeof secret !== 'string') return { problem: 'must be { tenant, key }' };
        return name.includes(':') ? { problem: 'has a tenant with a colon' } : `${name}:${secret}`;
      });
    default:
      return typeof value === 'string' && as.includes(value) ? value : { problem: `must be one of ${as.join(', ')}` };
  }
}

function ofText(value: unknown, problem = 'must be text'): Text {
  if (typeof value !== 'string') return { problem };
  return value.trim() === '' ? { problem: 'must not be empty: leave the option out instead' } : value;
}

function ofList(value: unknown, one: (entry: unknown) => Text): Text {
  if (!Array.isArray(value)) return { problem: 'must be an array' };
  const texts: string[] = [];
  for (const [index, entry] of value.entries()) {
    const text = one(entry);
    if (typeof text !== 'string') return { problem: `entry ${index + 1} ${text.problem}` };
    if (text.includes(',')) return { problem: `entry ${index + 1} must not contain a comma` };
    texts.push(text);
  }
  return texts.join(',');
}

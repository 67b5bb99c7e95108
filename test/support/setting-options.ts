import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type SettingOption, settingOptions, shorthands, withOptionNames } from '../../src/options.ts';

const FILE = join(import.meta.dirname, '..', '..', 'src', 'setting-options.ts');

/** Meaning of each section, for editors. */
const sections: Record<string, string> = {
  server: 'Address of the bridge, and from where it may be used.',
  database: 'Database: its URL, or more about it. Default: an embedded PostgreSQL.',
  upstream: 'The Responses API behind the bridge: its base URL, or more about it.',
  auth: 'Secrets, keys of clients and the token of operators.',
  internal: 'Listener for the other workers of the same database.',
  inspector: 'The viewer of live session machines.',
  deadlines: 'Waits, in milliseconds.',
  limits: 'Limits, in bytes or as a count.',
};

const units = { ms: 'In milliseconds', bytes: 'In bytes', count: 'A count' };

const types: Record<string, string> = {
  text: 'string',
  number: 'number',
  list: 'readonly string[]',
  keys: 'readonly { tenant: string; key: string }[]',
  proxy: 'string | false',
  switch: 'boolean',
};

const typeOf = ({ as }: SettingOption) =>
  typeof as === 'string' ? types[as]! : as.map((word) => `'${word}'`).join(' | ');

/** Wraps a text to the width of comments. */
function comment(text: string, indent: string): string {
  const width = 124 - indent.length;
  if (text.length + 7 <= width) return `${indent}/** ${text} */`;
  const lines = [''];
  for (const word of text.split(' ')) {
    if (lines.at(-1)!.length + word.length + 4 > width) lines.push('');
    lines[lines.length - 1] += lines.at(-1) === '' ? word : ` ${word}`;
  }
  return [`${indent}/**`, ...lines.map((line) => `${indent} * ${line}`), `${indent} */`].join('\n');
}

function member(setting: SettingOption, indent: string): string {
  const { option, description, unit, default: value, variable } = setting;
  const counted = unit === null ? '' : ` ${units[unit]}.`;
  const text = `${withOptionNames(description)}${counted} Default: ${value}. Variable: ${variable}.`;
  return `${comment(text, indent)}\n${indent}${option.split('.').at(-1)}?: ${typeOf(setting)} | undefined;`;
}

const interfaceOf = (section: string) => `${section[0]!.toUpperCase()}${section.slice(1)}Settings`;

function render(): string {
  const names = [...new Set(settingOptions.map(({ option }) => option.split('.')[0]!))];
  const within = (name: string) => settingOptions.filter(({ option }) => option.startsWith(`${name}.`));
  const interfaces = names
    .filter((name) => name in sections)
    .map((name) => {
      const members = within(name).map((each) => member(each, '  '));
      return `${comment(sections[name]!, '')}\nexport interface ${interfaceOf(name)} {\n${members.join('\n')}\n}\n`;
    });
  const all = names.map((name) => {
    const alone = settingOptions.find(({ option }) => option === name);
    if (alone) return member(alone, '  ');
    const type = `${shorthands.has(name) ? 'string | ' : ''}${interfaceOf(name)}`;
    return `${comment(sections[name]!, '  ')}\n  ${name}?: ${type} | undefined;`;
  });
  const head = 'Generated from the declarations in `src/config.ts` by `npm run docs:readme`: do not edit.';
  const top = 'Every setting as an option of `createBridge`.';
  return `// ${head}\n\n${interfaces.join('\n')}\n${comment(top, '')}\nexport interface SettingOptions {\n${all.join('\n')}\n}\n`;
}

/** Returns the file of the typed options as it is, and generated from the settings. */
export const renderOptions = async () => ({
  current: await readFile(FILE, 'utf8').catch(() => ''),
  rendered: render(),
});

/** Writes the file of the typed options. */
export const writeOptions = () => writeFile(FILE, render());

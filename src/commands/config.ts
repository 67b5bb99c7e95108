import { readFileSync } from 'node:fs';
import { parseEnv } from 'node:util';
import type { ConfigPrintOptions, SettingsOptions } from '../command-line.ts';
import { allSettings, ConfigError, FILE_SUFFIX, readConfig, withSecretFiles } from '../config.ts';
import { CommandFailed, columns, EXIT, type Output, printJson, standardOutput } from './output.ts';

/** Environment of a command, and which of its variables a file has set. */
export interface GivenSettings {
  env: NodeJS.ProcessEnv;
  /** Path of the file; null without one. */
  file: string | null;
  ofFile: ReadonlySet<string>;
}

/**
 * Returns the environment of this process, with the settings of the file that the option names over it.
 *
 * @throws `CommandFailed` when that file cannot be read
 */
export function givenSettings(
  { envFile }: Pick<SettingsOptions, 'envFile'>,
  env: NodeJS.ProcessEnv = process.env,
): GivenSettings {
  if (envFile === undefined) return { env, file: null, ofFile: new Set() };
  try {
    const set = parseEnv(readFileSync(envFile, 'utf8'));
    return { env: { ...env, ...set }, file: envFile, ofFile: new Set(Object.keys(set)) };
  } catch (error) {
    throw new CommandFailed(`${envFile} cannot be read (${(error as NodeJS.ErrnoException).code}).`);
  }
}

/** One setting as it is in effect. */
export interface EffectiveSetting {
  variable: string;
  /** Secrets are masked. */
  value: string;
  source: 'default' | 'environment' | `file ${string}`;
}

/** Masks the password, and the values of the query, of an address. */
function maskedUrl(text: string): string {
  const url = URL.parse(text);
  if (url === null) return '***';
  if (url.password !== '') url.password = '***';
  for (const name of new Set(url.searchParams.keys())) {
    if (!/^(?:ssl\w*|api-version|application_name|host|port|options)$/.test(name)) url.searchParams.set(name, '***');
  }
  return url.href;
}

/** Masks a value: entries keep the names before their colons, addresses everything but credentials. */
function masked(variable: string, value: string, secret: 'one' | 'list' | undefined): string {
  if (variable === 'DATABASE_URL') return maskedUrl(value);
  if (/_PROXY$|_URL$/.test(variable)) return /[@?]/.test(value) ? maskedUrl(value) : value;
  if (secret === undefined) return value;
  if (secret === 'one') return '***';
  const entries = value.split(',').map((entry) => entry.trim());
  return entries.map((entry) => (entry.includes(':') ? `${entry.slice(0, entry.indexOf(':'))}:***` : '***')).join(',');
}

/** Returns every setting with its value and source. A setting that is not valid is returned as it was given. */
export function effectiveSettings({ env, file, ofFile }: GivenSettings): EffectiveSetting[] {
  const filled = withSecretFiles(env, []);
  return allSettings.map(({ variable, default: byDefault, secret }) => {
    const lower = /_PROXY$/.test(variable) && env[variable.toLowerCase()]?.trim() ? variable.toLowerCase() : variable;
    const value = (lower === variable ? filled : env)[lower]?.trim();
    if (!value) return { variable, value: byDefault, source: 'default' as const };
    const path = env[variable + FILE_SUFFIX]?.trim();
    const bySecretFile = secret !== undefined && path && !env[variable]?.trim();
    const source = bySecretFile
      ? (`file ${path}` as const)
      : ofFile.has(lower)
        ? (`file ${file!}` as const)
        : 'environment';
    return { variable, value: masked(variable, value, secret), source };
  });
}

/** Returns the problems of the settings, one sentence each. */
export function problemsOf(env: NodeJS.ProcessEnv): readonly string[] {
  try {
    readConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems;
    throw error;
  }
}

/** Prints every setting with its value and its source. */
export async function configPrint(options: ConfigPrintOptions, output: Output = standardOutput): Promise<number> {
  const given = givenSettings(options);
  const all = effectiveSettings(given);
  const settings = options.changed ? all.filter(({ source }) => source !== 'default') : all;
  const problems = problemsOf(given.env);
  if (options.json) printJson(output, { settings, problems });
  else {
    const rows = settings.map(({ variable, value, source }) => [variable, value, source]);
    output.out(rows.length === 0 ? 'Every setting has its default.\n' : columns(['SETTING', 'VALUE', 'SOURCE'], rows));
    for (const problem of problems) output.err(`holdfast: ${problem}\n`);
  }
  return problems.length > 0 ? EXIT.failed : EXIT.done;
}

/** Checks the settings, and prints every problem. */
export async function configCheck(options: SettingsOptions, output: Output = standardOutput): Promise<number> {
  const problems = problemsOf(givenSettings(options).env);
  if (options.json) printJson(output, { valid: problems.length === 0, problems });
  else if (problems.length === 0) output.out('The settings are valid.\n');
  else output.out(problems.map((problem) => `${problem}\n`).join(''));
  return problems.length > 0 ? EXIT.failed : EXIT.done;
}

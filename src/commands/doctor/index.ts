import { statfs } from 'node:fs/promises';
import type { SettingsOptions } from '../../command-line.ts';
import { type Config, ConfigError, readConfig, unknownSettings } from '../../config.ts';
import { givenSettings } from '../config.ts';
import { EXIT, type Output, printJson, standardOutput } from '../output.ts';
import { checkDataDir, checkServer } from './database.ts';
import { type Finding, fromMessage, type Machine, ok, printFindings } from './finding.ts';
import { checkPeers, checkPort, checkUpstream } from './network.ts';
import {
  checkAccess,
  checkDescriptors,
  checkProxies,
  checkRuntime,
  checkSecretFiles,
  checkSecrets,
  namedSecretFiles,
} from './settings.ts';

const thisMachine: Machine = {
  wall: Date.now,
  freeBytes: (path) =>
    statfs(path).then(
      ({ bavail, bsize }) => bavail * bsize,
      () => null,
    ),
};

const OTHERWISE = 'set it to a valid value: `holdfast config print` lists every setting';

/**
 * Reads the settings. A misspelled name is reported, and does not keep the rest from being checked.
 *
 * @returns the settings, null when they are not valid otherwise
 */
function checkSettings(env: NodeJS.ProcessEnv): { config: Config | null; findings: Finding[] } {
  const unknown = new Set(unknownSettings(env).map(({ name }) => name));
  const problemsOf = (given: NodeJS.ProcessEnv): readonly string[] => {
    try {
      readConfig(given);
      return [];
    } catch (error) {
      if (error instanceof ConfigError) return error.problems;
      throw error;
    }
  };
  const known = Object.fromEntries(Object.entries(env).filter(([name]) => !unknown.has(name)));
  const findings = problemsOf(env).map((problem) => fromMessage('settings', problem, OTHERWISE));
  const config = problemsOf(known).length === 0 ? readConfig(known) : null;
  return { config, findings: findings.length > 0 ? findings : [ok('settings', 'every setting is known and valid')] };
}

/**
 * Checks settings, machine, database and upstream. Nothing is changed, started or generated.
 *
 * @param env settings
 * @returns what was found, in the order of the checks
 */
export async function diagnose(env: NodeJS.ProcessEnv, machine: Partial<Machine> = {}): Promise<Finding[]> {
  const here = { ...thisMachine, ...machine };
  const { config, findings } = checkSettings(env);
  const first = [...checkRuntime(env), ...findings];
  const files = await checkSecretFiles(namedSecretFiles(env), here);
  if (config === null) return [...first, ...files];
  const rest = await Promise.all([
    checkSecrets(config),
    files,
    checkAccess(config),
    config.databaseUrl === null ? checkDataDir(config, here) : checkServer(config.databaseUrl, config, here),
    checkProxies(config, env),
    checkUpstream(config),
    checkPort(config),
    checkPeers(config),
    checkDescriptors(config),
  ]);
  return [...first, ...rest.flat()];
}

/** Finds out what is wrong, and prints it with what to do about it. */
export async function doctor(options: SettingsOptions, output: Output = standardOutput): Promise<number> {
  const findings = await diagnose(givenSettings(options).env);
  const count = (level: Finding['level']) => findings.filter((each) => each.level === level).length;
  const [faults, warnings] = [count('fault'), count('warning')];
  if (options.json) printJson(output, { faults, warnings, findings });
  else {
    printFindings(findings, output);
    const valid = findings.length - faults - warnings;
    output.out(`\nFaults: ${faults}. Warnings: ${warnings}. Without complaint: ${valid}.\n`);
  }
  return faults > 0 ? EXIT.failed : EXIT.done;
}

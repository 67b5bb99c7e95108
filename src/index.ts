/** Holdfast as a library. */
import type { Bridge, BridgeOptions } from './bridge.ts';

export type { AdminToken, Bridge, BridgeOptions } from './bridge.ts';
export { type Config, ConfigError } from './config.ts';
export { type BridgeCode, BridgeError, catalogue, type ErrorEnvelope } from './errors.ts';
export type {
  BridgeHooks,
  ChosenUpstream,
  Identity,
  SessionChange,
  TurnReport,
  TurnTokens,
  UpstreamEntry,
  UpstreamQuestion,
} from './hooks.ts';
export type { Logger } from './observe/log.ts';
export type { Outcome } from './resolve/types.ts';
export type * from './setting-options.ts';
export type { ApplicationOrm } from './store/postgres/application.ts';

/**
 * Starts a bridge in this process. The first call loads the server and the database driver, so that an import of this
 * module alone, for its errors or types, costs little.
 *
 * @param options settings, and what the application decides in code; a misspelled name is refused
 * @returns the bridge, registered as a worker and ready to serve
 * @throws `ConfigError`, or the error that keeps the database from opening
 * @example
 * const bridge = await createBridge({ upstream: 'https://api.openai.com/v1', deadlines: { turnBudget: 600_000 } });
 * createServer(bridge.handler).on('upgrade', bridge.handleUpgrade).listen(8787, '127.0.0.1');
 */
export async function createBridge(options: BridgeOptions = {}): Promise<Bridge> {
  const bridge = await import('./bridge.ts');
  return bridge.createBridge(options);
}

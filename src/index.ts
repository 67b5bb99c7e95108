/** Holdfast as a library. */
import type { Bridge, BridgeOptions } from './bridge.ts';

export type { Bridge, BridgeOptions } from './bridge.ts';
export { type Config, ConfigError } from './config.ts';
export { type BridgeCode, BridgeError, catalogue, type ErrorEnvelope } from './errors.ts';
export type { Outcome } from './resolve/types.ts';

/**
 * Starts a bridge in this process. The first call loads the server and the database driver, so that an import of this
 * module alone, for its errors or types, costs little.
 *
 * @param options settings override those of the process's environment
 * @returns the bridge, registered as a worker and ready to serve
 * @throws `ConfigError`, or the error that keeps the database from opening
 */
export async function createBridge(options: BridgeOptions = {}): Promise<Bridge> {
  const bridge = await import('./bridge.ts');
  return bridge.createBridge(options);
}

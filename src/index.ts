/** Holdfast as a library. */
export { type Bridge, type BridgeOptions, createBridge } from './bridge.ts';
export { type Config, ConfigError } from './config.ts';
export { type BridgeCode, BridgeError, catalogue, type ErrorEnvelope } from './errors.ts';
export type { Outcome } from './resolve/types.ts';

/** Holdfast as a library. */
export { type AdminToken, type Bridge, type BridgeOptions, createBridge } from './bridge.ts';
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

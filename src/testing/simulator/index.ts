export {
  contextDigest,
  digestOf,
  type ExpectedContext,
  type ExpectedItem,
  expectedDigest,
  type ModelContext,
} from './digest.ts';
export type { ErrorShape, ErrorSpec } from './events.ts';
export type {
  Chaos,
  ChaosKind,
  ChaosOptions,
  ChaosRecord,
  ConnectFault,
  Fault,
  Point,
  RequestFault,
  RequestMatch,
  Rule,
  RuleHandle,
  Script,
  ScriptedOutput,
  TurnFault,
  TurnMatch,
  TurnSeen,
  UpgradeFault,
  UpgradeMatch,
  UpgradeSeen,
} from './faults.ts';
export type { EntryKind, EntryOf, Journal, JournalEntry, TurnEnd, WaitOptions } from './journal.ts';
export { startSimulator } from './simulator.ts';
export type { SimulatedConnection, Simulator, SimulatorOptions, UpgradeRefusal } from './types.ts';

export type { Chaos, ChaosKind, ChaosOptions, ChaosRecord } from './chaos.ts';
export type { ExpectedContext, ExpectedItem, ModelContext } from './digest.ts';
export { contextDigest, digestOf, expectedDigest } from './digest.ts';
export type { ErrorShape, ErrorSpec } from './error-shapes.ts';
export type {
  ConnectFault,
  Fault,
  Point,
  RequestFault,
  RequestMatch,
  Rule,
  ScriptedOutput,
  TurnFault,
  TurnMatch,
  TurnSeen,
  UpgradeFault,
  UpgradeMatch,
  UpgradeSeen,
} from './faults.ts';
export type { EntryKind, EntryOf, Journal, JournalEntry, TurnEnd, WaitOptions } from './journal.ts';
export type { RuleHandle, Script } from './script.ts';
export { startSimulator } from './simulator.ts';
export type { SimulatedConnection, Simulator, SimulatorOptions, UpgradeRefusal } from './types.ts';

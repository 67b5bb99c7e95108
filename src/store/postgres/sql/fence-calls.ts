import type { Statement } from '../executor.ts';

/** Builds `select name($1, ..., $arity)`, prepared under the function's own name. The answer is JSON text. */
function functionCall(name: string, arity: number): Statement {
  const parameters = Array.from({ length: arity }, (_, index) => `$${index + 1}`).join(', ');
  return { name, text: `select ${name}(${parameters})::text as answer` };
}

/** One statement per fence function. Parameters are in the function's order. */
export const fenceCalls = {
  create: functionCall('holdfast_create', 20),
  start: functionCall('holdfast_start', 16),
  settle: functionCall('holdfast_settle', 5),
  claim: functionCall('holdfast_claim', 5),
  release: functionCall('holdfast_release', 7),
  close: functionCall('holdfast_close', 6),
} as const;

export const workerCalls = {
  register: functionCall('holdfast_register', 5),
  heartbeat: functionCall('holdfast_beat', 6),
  declareExpired: functionCall('holdfast_judge', 1),
  declareDead: functionCall('holdfast_declare_dead', 1),
} as const;

import type { TurnLine } from '../log.ts';
import type { Instruments } from './instruments.ts';
import { tokensOf } from './usage.ts';

/** Records all metrics of a turn from its log line, the only source, so that log and metrics cannot differ. */
export function recordTurn(instruments: Instruments, line: TurnLine): void {
  const { add, observe } = instruments;
  const { outcome, shape, terminal } = line;
  const form = line.form ?? 'none';
  add('holdfast_turns_total', { outcome, shape, terminal });
  add('holdfast_turns_sent_total', { shape, form });
  if (line.fault !== null) add('holdfast_turn_faults_total', { fault: line.fault });
  if (line.heldMs !== null) observe('holdfast_turn_held_milliseconds', { shape }, line.heldMs);
  if (line.firstEventMs !== null) observe('holdfast_turn_first_event_milliseconds', { form }, line.firstEventMs);
  observe('holdfast_turn_total_milliseconds', { terminal }, line.totalMs);
  add('holdfast_turn_client_bytes_total', {}, line.bytesFromClient);
  add('holdfast_turn_upstream_bytes_total', {}, line.bytesSent);
  // A turn that was never sent saved nothing.
  if (line.form !== null) add('holdfast_turn_saved_bytes_total', {}, line.bytesFromClient - line.bytesSent);
  add('holdfast_turn_items_total', { side: 'client' }, line.itemsFromClient);
  add('holdfast_turn_items_total', { side: 'upstream' }, line.itemsSent ?? 0);
  for (const [kind, tokens] of Object.entries(tokensOf(line.tokens))) add('holdfast_tokens_total', { kind }, tokens);
  if (line.tokenIgnored !== null) add('holdfast_turn_state_ignored_total', { reason: line.tokenIgnored });
}

/**
 * Families of calls that can be passed on besides the Responses API: the first segment of their paths. Those of the Responses
 * API (`responses`, `conversations`, `models`) are always served.
 */
export const passFamilies = [
  'chat',
  'completions',
  'embeddings',
  'moderations',
  'files',
  'uploads',
  'vector_stores',
  'images',
  'audio',
  'videos',
  'batches',
  'containers',
  'skills',
  'fine_tuning',
  'evals',
  'assistants',
  'threads',
  'agents',
  'vaults',
  'chatkit',
  'decisions',
  'content_provenance_checks',
  'webhook_endpoints',
  'webhook_event_types',
  'safety',
  'organization',
  'projects',
] as const;

/** One of {@link passFamilies}. */
export type PassFamily = (typeof passFamilies)[number];

/** Families whose sessions run over connections that do not lead through this bridge. Their calls are refused. */
export const realtimeFamilies = ['realtime', 'live'] as const;

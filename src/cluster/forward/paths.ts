/** What the internal listener serves, and nothing else. */
export const WORKER_PATH = '/internal/worker';
export const TURN_PATH = '/internal/turn';
export const CLAIMED_PATH = '/internal/claimed';
export const VIEW_PATH = '/internal/view';

/** Header in which a hop's token travels. */
export const HOP_HEADER = 'x-holdfast-internal-hop';
/** Marks a refusal as the receiver's own word: nothing was served, whatever a box in between might have answered. */
export const REFUSED_HEADER = 'x-holdfast-internal-refused';

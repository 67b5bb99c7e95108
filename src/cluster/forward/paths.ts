/** Paths of the internal listener. It serves nothing else. */
export const WORKER_PATH = '/internal/worker';
export const TURN_PATH = '/internal/turn';
export const CLAIMED_PATH = '/internal/claimed';
export const VIEW_PATH = '/internal/view';

/** Header that carries a hop's token. */
export const HOP_HEADER = 'x-holdfast-internal-hop';
/** Marks a refusal as the receiver's own, as opposed to an intermediary's answer: the request was certainly not served. */
export const REFUSED_HEADER = 'x-holdfast-internal-refused';

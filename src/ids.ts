import { randomUUID } from 'node:crypto';

/** Source of identifiers, injected so that a simulation can make them reproducible. */
export interface Ids {
  /** Returns a fresh UUID. Session, turn, worker, nonce and request ids all have this form. */
  uuid(): string;
}

/** Cryptographically random identifiers. */
export const randomIds: Ids = { uuid: () => randomUUID() };

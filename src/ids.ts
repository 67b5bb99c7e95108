import { randomUUID } from 'node:crypto';

/** Source of identifiers, injected so that a simulation can make them reproducible. */
export interface Ids {
  /** A fresh UUID: session, turn, worker, nonce and request ids are all of this form. */
  uuid(): string;
}

/** Cryptographically random identifiers. */
export const randomIds: Ids = { uuid: () => randomUUID() };

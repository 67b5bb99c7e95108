import { afterAll, beforeAll, describe } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { administration } from './contract/admin.ts';
import { claims } from './contract/claim.ts';
import { creation } from './contract/create.ts';
import { lineages } from './contract/lineage.ts';
import { lookups } from './contract/lookup.ts';
import { providerObjects } from './contract/objects.ts';
import { releases } from './contract/release.ts';
import { scopes } from './contract/scopes.ts';
import { settling } from './contract/settle.ts';
import { shutdowns } from './contract/shutdown.ts';
import { starts } from './contract/start.ts';
import { liveness } from './contract/workers.ts';

/** A store under test, with the two operations that the port lacks: losing rows (a failover) and erasing items. */
export interface Subject {
  store: SessionStore;
  forgetWorker(id: string): Promise<void>;
  eraseItems(scope: string, turnId: string): Promise<void>;
  /** Makes all rows older by this many hours. */
  age(hours: number): Promise<void>;
  /** Returns another store on the same data. */
  another(): Promise<SessionStore>;
  dispose(): Promise<void>;
}

const groups = new Map<string, (given: () => Subject) => void>([
  ['create', creation],
  ['start', starts],
  ['settle', settling],
  ['claim', claims],
  ['release and close', releases],
  ['workers', liveness],
  ['lookup', lookups],
  ['scopes', scopes],
  ['administration', administration],
  ['lineage and lists', lineages],
  ['objects of the provider', providerObjects],
  ['shutdown', shutdowns],
]);

/**
 * Defines the tests that every store must pass, whatever its implementation.
 *
 * @param only the one group of cases to define; by default all
 */
export function storeContract(name: string, open: () => Promise<Subject>, only?: string): void {
  describe(`${name} keeps the store contract`, () => {
    let subject: Subject;
    beforeAll(async () => {
      subject = await open();
    });
    afterAll(() => subject.dispose());

    const given = () => subject;
    for (const group of only ? [only] : groups.keys()) describe(group, () => groups.get(group)!(given));
  });
}

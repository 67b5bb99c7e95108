import { afterAll, beforeAll, describe } from 'vitest';
import type { SessionStore } from '../../src/store/port.ts';
import { administration } from './contract/admin.ts';
import { claims } from './contract/claim.ts';
import { creation } from './contract/create.ts';
import { lineages } from './contract/lineage.ts';
import { lookups } from './contract/lookup.ts';
import { releases } from './contract/release.ts';
import { settling } from './contract/settle.ts';
import { shutdowns } from './contract/shutdown.ts';
import { starts } from './contract/start.ts';
import { liveness } from './contract/workers.ts';

/** A store under test, with the two things the port cannot do: rows vanish (a failover), items are erased. */
export interface Subject {
  store: SessionStore;
  forgetWorker(id: string): Promise<void>;
  eraseItems(turnId: string): Promise<void>;
  /** Makes everything there is so many hours older. */
  age(hours: number): Promise<void>;
  /** Another store on the same data. */
  another(): Promise<SessionStore>;
  dispose(): Promise<void>;
}

/** What every store promises, whatever it is made of. */
export function storeContract(name: string, open: () => Promise<Subject>): void {
  describe(`${name} keeps the store contract`, () => {
    let subject: Subject;
    beforeAll(async () => {
      subject = await open();
    });
    afterAll(() => subject.dispose());

    const given = () => subject;
    describe('create', () => creation(given));
    describe('start', () => starts(given));
    describe('settle', () => settling(given));
    describe('claim', () => claims(given));
    describe('release and close', () => releases(given));
    describe('workers', () => liveness(given));
    describe('lookup', () => lookups(given));
    describe('administration', () => administration(given));
    describe('lineage and lists', () => lineages(given));
    describe('shutdown', () => shutdowns(given));
  });
}

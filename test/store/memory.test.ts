import { systemClock } from '../../src/system.ts';
import { keyOf } from '../../src/testing/memory-store/database.ts';
import { createMemoryDatabase, createMemoryStore } from '../../src/testing/memory-store/index.ts';
import { storeContract } from './contract.ts';

storeContract('the store in memory', async () => {
  const database = createMemoryDatabase('5eed'.repeat(16));
  const another = async () => createMemoryStore({ clock: systemClock, database });
  return {
    store: await another(),
    another,
    forgetWorker: async (id) => void database.workers.delete(id),
    eraseItems: async (scope, id) => void database.items.delete(keyOf({ scope, id })),
    async age(hours) {
      const ms = hours * 3_600_000;
      for (const session of database.sessions.values()) {
        session.createdAt -= ms;
        session.updatedAt -= ms;
      }
      for (const turn of database.turns.values()) {
        turn.startedAt -= ms;
        if (turn.endedAt !== null) turn.endedAt -= ms;
      }
      for (const worker of database.workers.values()) worker.heartbeatExpiresAt -= ms;
      for (const object of database.objects.values()) object.createdAt -= ms;
    },
    dispose: async () => undefined,
  };
});

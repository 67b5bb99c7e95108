import { freshDatabase } from '../support/database.ts';
import { storeContract } from './contract.ts';
import { postgresSubject } from './postgres-subject.ts';

storeContract('the store over PostgreSQL', async () => postgresSubject(await freshDatabase()));

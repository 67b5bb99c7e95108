import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';

/** Many seeds, cases or conversations each. */
export const campaigns = [
  'test/bridge/soak.test.ts',
  'test/chaos/chaos.test.ts',
  'test/fuzz/fuzz.test.ts',
  'test/model/model.test.ts',
  'test/property/continuity.test.ts',
  'test/recordings/corpus.test.ts',
  'test/simulation/simulation.test.ts',
  'test/store/differential.test.ts',
];

/** No database and no other process; simulated providers and servers on loopback are in the test's own process. */
export const units = [
  'test/*.test.ts',
  'test/{canaries,config,http,mutants,resolve,runtime,session,token,transcript,upstream}/**/*.test.ts',
  'test/admin/views.test.ts',
  'test/explorer/{imports,pictures,words}.test.ts',
  'test/bridge/named-contents.test.ts',
  'test/cluster/{failure-detector,janitor,membership}.test.ts',
  'test/docs/{guide,machines,paths,readme}.test.ts',
  'test/embed/{hooks,options,servers}.test.ts',
  'test/field/{accounts,dialects,repeated-ids}.test.ts',
  'test/cluster/forward/!(process).test.ts',
  'test/hostile/edges/{depth,embedded,faults,front,requests,settings,tables}.test.ts',
  'test/hostile/fairness/quota.test.ts',
  'test/hostile/tenancy/{credential,sdk-types}.test.ts',
  'test/hostile/wedges/states.test.ts',
  'test/machines/*.test.ts',
  'test/model/rows.test.ts',
  'test/observe/{deploy,explain,hub,inspect,metrics,observatory,trace}.test.ts',
  'test/simulator/!(process).test.ts',
  'test/store/{executor,memory,outcome}.test.ts',
  'test/testing/paths.test.ts',
];

/** Every other file: real workers, databases, browsers. */
const integration = {
  include: ['test/**/*.test.ts'],
  // The option --exclude of vitest does not reach projects.
  exclude: [...campaigns, ...units, ...(process.env.TEST_EXCLUDE?.split(',') ?? [])],
};

const globalSetup = ['test/support/global-setup.ts'];

export default defineConfig({
  test: {
    pool: 'forks',
    // One more than cores: most files wait, for deadlines, processes and the database, longer than they compute.
    maxWorkers: availableParallelism() + 1,
    testTimeout: 30_000,
    hookTimeout: 60_000,
    reporters: ['default'],
    // Files run in the order of the projects' names: campaigns first, so that no long file is left for the end.
    projects: [
      { extends: true, test: { name: 'campaign', include: campaigns, globalSetup } },
      { extends: true, test: { name: 'integration', ...integration, globalSetup } },
      {
        extends: true,
        test: {
          name: 'unit',
          include: units,
          // The files share the modules they import: loading them for each file took longer than the tests.
          isolate: false,
          // A test that needs the database fails here, also when another project has started one.
          env: { TEST_DATABASE_URL: '', TEST_TEMPLATE: '' },
        },
      },
    ],
  },
});

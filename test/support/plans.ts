import pg from 'pg';
import type { Executor } from '../../src/store/postgres/executor.ts';

interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Name'?: string;
  'Actual Rows': number;
  'Actual Loops': number;
  'Rows Removed by Filter'?: number;
  'Shared Hit Blocks'?: number;
  'Shared Read Blocks'?: number;
  Plans?: PlanNode[];
}

/** A statement that ran, with its plan; includes those within functions and behind foreign keys. */
export interface RunPlan {
  query: string;
  plan: PlanNode;
}

export const nodesOf = (node: PlanNode): PlanNode[] => [node, ...(node.Plans ?? []).flatMap(nodesOf)];

/** Returns the number of pages that the statement read, cached or not. */
export const pagesOf = ({ plan }: RunPlan) => (plan['Shared Hit Blocks'] ?? 0) + (plan['Shared Read Blocks'] ?? 0);

/** Returns the node types and what they read, without numbers. */
export const shapeOf = (node: PlanNode): string => {
  const name = [node['Node Type'], node['Index Name'] ?? node['Relation Name']].filter(Boolean).join(' ');
  const below = (node.Plans ?? []).map(shapeOf);
  return below.length === 0 ? name : `${name} (${below.join(', ')})`;
};

/** A connection whose plans are recorded. */
export interface WatchedConnection {
  client: pg.Client;
  executor: Executor;
  /** Does on the connection what is not to be recorded. */
  quietly(work: () => Promise<void>): Promise<void>;
  /** Returns the statements since the previous call, innermost first. */
  taken(): RunPlan[];
  end(): Promise<void>;
}

/** Opens a connection and records its plans. Requires `auto_explain` and a superuser, which the test server has. */
export async function watchPlans(url: string): Promise<WatchedConnection> {
  const client = new pg.Client({ connectionString: url });
  let plans: RunPlan[] = [];
  client.on('notice', ({ message = '' }) => {
    const at = message.indexOf('plan:');
    if (at < 0) return;
    const { 'Query Text': query, Plan: plan } = JSON.parse(message.slice(at + 5)) as {
      'Query Text': string;
      Plan: PlanNode;
    };
    plans.push({ query, plan });
  });
  await client.connect();
  await client.query(`load 'auto_explain'`);
  for (const setting of [
    'auto_explain.log_min_duration = 0',
    'auto_explain.log_nested_statements = on',
    'auto_explain.log_analyze = on',
    'auto_explain.log_buffers = on',
    'auto_explain.log_format = json',
    'client_min_messages = log',
  ])
    await client.query(`set ${setting}`);
  plans = [];
  return {
    client,
    executor: {
      async run<Row>({ name, text }: { name: string; text: string }, values: readonly unknown[]) {
        return (await client.query({ name, text, values: [...values] })).rows as Row[];
      },
      stop() {},
    },
    async quietly(work) {
      await client.query('set auto_explain.log_min_duration = -1');
      await work();
      await client.query('set auto_explain.log_min_duration = 0');
      plans = [];
    },
    taken() {
      const all = plans;
      plans = [];
      return all;
    },
    end: () => client.end(),
  };
}

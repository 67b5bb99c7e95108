import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { AnyStateMachine, AnyStateNode } from 'xstate';
import { sessionMachine } from '../../machines/session.ts';
import { turnMachine } from '../../machines/turn.ts';
import { workerMachine } from '../../machines/worker.ts';

const FILE = join(import.meta.dirname, '..', '..', 'docs', 'machines.md');
const machines: readonly AnyStateMachine[] = [sessionMachine, turnMachine, workerMachine];

interface Edge {
  from: string;
  event: string;
  guard: string;
  to: string;
  actions: string;
  description: string;
}

const nodesOf = (node: AnyStateNode): AnyStateNode[] => [
  node,
  ...Object.values(node.states).flatMap((child) => nodesOf(child as AnyStateNode)),
];
const pathOf = (node: AnyStateNode) => node.path.join('.') || '(any state)';
const nameOf = (action: unknown): string => {
  if (typeof action === 'string') return action;
  const { type, params } = action as { type: string; params?: Record<string, unknown> };
  return params ? `${type}(${Object.values(params).join(', ')})` : type;
};

function edgesOf(machine: AnyStateMachine): Edge[] {
  return nodesOf(machine.root).flatMap((node) =>
    [...node.transitions].flatMap(([event, list]) =>
      list.map(({ guard, target, actions, description }) => ({
        from: pathOf(node),
        event,
        guard: guard ? nameOf(guard) : '',
        to: target?.[0] ? pathOf(target[0] as AnyStateNode) : 'stays',
        actions: (actions as readonly unknown[]).map(nameOf).join(', '),
        description: description ?? '',
      })),
    ),
  );
}

const mermaidId = (path: string) => path.replaceAll('.', '_');

/** Returns a diagram of the top-level states and the states directly below them; deeper ones are in the table. */
function diagram(machine: AnyStateMachine): string {
  const lines = ['stateDiagram-v2', '  direction LR'];
  const shownDepth = 2;
  const shorten = (path: string) => path.split('.').slice(0, shownDepth).join('.');
  for (const node of Object.values(machine.root.states) as AnyStateNode[]) {
    const children = Object.values(node.states) as AnyStateNode[];
    if (children.length === 0) lines.push(`  ${mermaidId(pathOf(node))} : ${pathOf(node)}`);
    else {
      lines.push(`  state "${pathOf(node)}" as ${mermaidId(pathOf(node))} {`);
      for (const child of children) lines.push(`    ${mermaidId(pathOf(child))} : ${child.key}`);
      lines.push('  }');
    }
  }
  const initial = machine.root.initial.target[0] as AnyStateNode;
  lines.push(`  [*] --> ${mermaidId(pathOf(initial))}`);
  const drawn = new Map<string, Set<string>>();
  for (const { from, to, event } of edgesOf(machine)) {
    if (to === 'stays' || from.startsWith('(')) continue;
    const [a, b] = [shorten(from), shorten(to)];
    if (a === b) continue;
    const arrow = `${mermaidId(a)} --> ${mermaidId(b)}`;
    drawn.set(arrow, (drawn.get(arrow) ?? new Set()).add(event));
  }
  for (const [arrow, events] of drawn) lines.push(`  ${arrow} : ${[...events].join(', ').replaceAll(':', '')}`);
  return ['```mermaid', ...lines, '```'].join('\n');
}

const table = (head: string[], rows: string[][]) =>
  [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
const code = (text: string) => (text === '' ? '' : `\`${text}\``);

function chapter(machine: AnyStateMachine): string {
  const nodes = nodesOf(machine.root).slice(1);
  const states = nodes.map((node) => {
    const { deadlines = [] } = (node.meta ?? {}) as { deadlines?: { name: string }[] };
    const entry = (node.entry as readonly unknown[]).map(nameOf).join(', ');
    return [
      code(pathOf(node)),
      node.description ?? '',
      code(entry),
      deadlines.map(({ name }) => code(name)).join(', '),
    ];
  });
  const edges = edgesOf(machine).map(({ from, event, guard, to, actions, description }) => [
    code(from),
    code(event),
    code(guard),
    to === 'stays' ? to : code(to),
    code(actions),
    description,
  ]);
  return [
    `## ${machine.id}`,
    machine.root.description ?? '',
    diagram(machine),
    '### States',
    table(['state', 'means', 'on entry', 'deadlines'], states),
    '### Transitions',
    table(['from', 'event', 'if', 'to', 'does', 'because'], edges),
  ].join('\n\n');
}

/** Returns the page as it should be, and as it is. */
export async function renderMachineDocs(): Promise<{ current: string; rendered: string }> {
  const rendered = `${[
    '# The machines',
    'Made from `machines/` by `npm run docs:machines`; a test fails when it is stale. What runs is exactly this.',
    ...machines.map(chapter),
  ].join('\n\n')}\n`;
  return { current: await readFile(FILE, 'utf8').catch(() => ''), rendered };
}

if (import.meta.main) await writeFile(FILE, (await renderMachineDocs()).rendered);

import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { catalogue, type Definition } from '../../src/observe/metrics/catalogue.ts';
import { renderMetrics } from '../support/metrics-table.ts';
import { readBlockYaml } from './block-yaml.ts';

const definitions: Record<string, Definition> = catalogue;
/** Labels that exist on series once Prometheus has scraped them. */
const scraped = ['instance', 'job', 'le'];

/** Returns the metric that a series belongs to, or null. */
function metricOf(series: string): Definition | null {
  const base = series.replace(/_(bucket|sum|count)$/, '');
  return definitions[series] ?? (definitions[base]?.kind === 'histogram' ? definitions[base] : null);
}

/** Returns descriptions of the errors in an expression. */
function findings(expr: string): string[] {
  const wrong: string[] = [];
  const used = [...expr.matchAll(/\b(holdfast_\w+)(?:\{([^}]*)\})?/g)];
  if (used.length === 0) wrong.push('names no metric');
  const known = new Set(scraped);
  for (const [, series, matchers] of used) {
    const metric = metricOf(series!);
    if (!metric) {
      wrong.push(`${series} does not exist`);
      continue;
    }
    if (metric.kind === 'histogram' && definitions[series!]) wrong.push(`${series} is a histogram, not a series`);
    for (const label of Object.keys(metric.labels)) known.add(label);
    for (const [, label, , value] of (matchers ?? '').matchAll(/(\w+)\s*(=~|!=|=)\s*"([^"]*)"/g)) {
      if (scraped.includes(label!)) continue;
      const values = metric.labels[label!];
      if (!values) wrong.push(`${series} has no label ${label}`);
      for (const each of value!.split('|'))
        if (values && !values.includes(each)) wrong.push(`${label} is never ${each}`);
    }
  }
  for (const [, list] of expr.matchAll(/\bby \(([^)]*)\)/g)) {
    for (const label of list!.split(','))
      if (!known.has(label.trim())) wrong.push(`grouped by unknown ${label.trim()}`);
  }
  if ((expr.match(/\(/g) ?? []).length !== (expr.match(/\)/g) ?? []).length) wrong.push('unbalanced parentheses');
  return wrong;
}

interface Panel {
  id: number;
  type: string;
  title: string;
  gridPos: { x: number; y: number; w: number; h: number };
  targets?: { expr: string; legendFormat: string }[];
}

async function dashboard(): Promise<{ uid: string; panels: Panel[] }> {
  return JSON.parse(await readFile('deploy/grafana/holdfast.json', 'utf8'));
}

interface Rule {
  alert: string;
  expr: string;
  for?: string;
  labels: { severity: string };
  annotations: { summary: string; description: string };
}

async function rules(): Promise<Rule[]> {
  const { groups } = readBlockYaml(await readFile('deploy/prometheus/alerts.yml', 'utf8')) as unknown as {
    groups: { name: string; rules: Rule[] }[];
  };
  return groups.flatMap((group) => group.rules);
}

it('The checker finds errors in an expression', () => {
  expect(findings('rate(holdfast_nothing_total[5m])')).toEqual(['holdfast_nothing_total does not exist']);
  expect(findings('holdfast_sessions{colour="red"}')).toEqual(['holdfast_sessions has no label colour']);
  expect(findings('holdfast_sessions{state="lively"}')).toEqual(['state is never lively']);
  expect(findings('sum by (call) (holdfast_sessions)')).toEqual(['grouped by unknown call']);
  expect(findings('holdfast_turn_held_milliseconds')).toEqual([
    'holdfast_turn_held_milliseconds is a histogram, not a series',
  ]);
});

it('The dashboard uses only metrics and labels that exist', async () => {
  const { panels } = await dashboard();
  for (const { title, targets, type } of panels) {
    if (type === 'row') continue;
    expect(targets?.length, title).toBeGreaterThan(0);
    for (const { expr, legendFormat } of targets!) {
      expect(findings(expr), `${title}: ${expr}`).toEqual([]);
      const grouped = /\bby \(([^)]*)\)/.exec(expr)?.[1]?.split(/, */);
      const metric = metricOf(/\bholdfast_\w+/.exec(expr)![0]);
      const left = grouped ?? [...Object.keys(metric?.labels ?? {}), 'instance'];
      for (const [, label] of legendFormat.matchAll(/\{\{(\w+)\}\}/g)) expect(left, title).toContain(label);
    }
  }
});

it('The dashboard shows every metric, with unique panel ids and no overlapping panels', async () => {
  const { panels } = await dashboard();
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const all = panels.flatMap(({ targets }) => targets ?? []).map(({ expr }) => expr);
  const missing = Object.keys(catalogue).filter(
    (name) => !all.some((expr) => new RegExp(`\\b${name}(_bucket)?\\b`).test(expr)),
  );
  expect(missing).toEqual([]);
  for (const [i, { gridPos: a, title }] of panels.entries()) {
    expect(a.x + a.w, title).toBeLessThanOrEqual(24);
    for (const { gridPos: b } of panels.slice(i + 1)) {
      const apart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
      expect(apart, title).toBe(true);
    }
  }
});

it('The alerts use only metrics and labels that exist, and describe the action to take', async () => {
  const all = await rules();
  expect(all.length).toBeGreaterThan(10);
  expect(new Set(all.map(({ alert }) => alert)).size).toBe(all.length);
  for (const { alert, expr, labels, annotations } of all) {
    expect(findings(expr), `${alert}: ${expr}`).toEqual([]);
    expect(expr, alert).toMatch(/ > [\d.]+$/);
    expect(['critical', 'warning', 'info'], alert).toContain(labels.severity);
    expect(annotations.summary, alert).toMatch(/\.$/);
    expect(annotations.description, alert).toMatch(/\.$/);
    for (const [, label] of annotations.summary.matchAll(/\$labels\.(\w+)/g)) {
      const aggregated = /\bby \(([^)]*)\)/.exec(expr)?.[1];
      if (aggregated) expect(aggregated, alert).toContain(label);
    }
  }
});

it('docs/metrics.md matches the catalogue (npm run docs:readme writes it)', async () => {
  const { current, rendered } = await renderMetrics();
  expect(current).toBe(rendered);
  for (const name of Object.keys(catalogue)) expect(current).toContain(`\`${name}\``);
});

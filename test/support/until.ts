/** Resolves once the condition holds; rejects after `ms`. For states that announce themselves to nobody. */
export async function until(check: () => boolean | Promise<boolean>, ms = 10_000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${check}`);
    await new Promise((look) => setTimeout(look, 5));
  }
}

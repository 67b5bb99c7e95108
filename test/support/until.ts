/** Polls until the condition holds; rejects after `ms` milliseconds. For states without an event. */
export async function until(check: () => boolean | Promise<boolean>, ms = 10_000): Promise<void> {
  const end = performance.now() + ms;
  while (!(await check())) {
    if (performance.now() > end) throw new Error(`not within ${ms} ms: ${check}`);
    await new Promise((look) => setTimeout(look, 5));
  }
}

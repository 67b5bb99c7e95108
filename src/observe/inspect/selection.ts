/** Sessions that a viewer sees. */
export interface Selection {
  /** Returns whether the viewer sees this session. The result for a session does not change while it is shown. */
  wants(sessionId: string): boolean;
  /** True when the viewer named its sessions; then nothing else is shown. */
  readonly exact: boolean;
  /** Frees the place of a session whose actor has ended, so that another can be shown. */
  release(sessionId: string): void;
}

/** Maps an id to a share in [0, 1) with FNV-1a. The same session falls into the same sample on every worker. */
function share(id: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < id.length; i += 1) hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193);
  // Final mixing steps, so that ids that differ only at the end do not get similar shares.
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) / 2 ** 32;
}

/**
 * Reads a viewer's selection: `session=<id>`, repeated for more, or `sample=<0..1>` (default 1: all).
 *
 * @param most maximum number of sampled sessions shown at the same time
 */
export function createSelection(wish: URLSearchParams, most: number): Selection {
  const named = new Set(wish.getAll('session').filter((id) => id !== ''));
  const given = Number(wish.get('sample') ?? 1);
  const sample = Number.isFinite(given) ? given : 1;
  const seen = new Set<string>();
  return {
    exact: named.size > 0,
    wants(sessionId) {
      if (named.size > 0) return named.has(sessionId);
      if (seen.has(sessionId)) return true;
      if (seen.size >= most || share(sessionId) >= sample) return false;
      seen.add(sessionId);
      return true;
    },
    release: (sessionId) => void seen.delete(sessionId),
  };
}

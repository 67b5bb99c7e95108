/** Which sessions a viewer sees. */
export interface Selection {
  /** Whether it sees this session; the answer for one session does not change while it is seen. */
  wants(sessionId: string): boolean;
  /** It names its sessions itself, so nothing else is of interest. */
  readonly exact: boolean;
  /** The session's actor has ended: another may take its place. */
  release(sessionId: string): void;
}

/** FNV-1a over the id, as a share in [0, 1): the same session falls into the same sample on every worker. */
function share(id: string): number {
  let hash = 0x811c9dc5;
  for (let i = 0; i < id.length; i += 1) hash = Math.imul(hash ^ id.charCodeAt(i), 0x01000193);
  // The last steps of a better hash: ids that differ only at the end must not fall close to each other.
  hash = Math.imul(hash ^ (hash >>> 15), 0x2c1b3c6d);
  return ((hash ^ (hash >>> 13)) >>> 0) / 2 ** 32;
}

/**
 * Reads a viewer's wish: `session=<id>`, repeated for more, or `sample=<0..1>` (default 1: all).
 * @param most sessions of a sample shown at the same time
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

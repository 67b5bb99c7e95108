/** Base URL of the admin API, relative to this module, because the routes may be mounted below any path. */
const base = new URL('../../', import.meta.url);
const KEY = 'holdfast-admin-token';

export const token = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
  forget: () => sessionStorage.removeItem(KEY),
};

/** Error for a request that did not succeed. `status` 0 means that no response arrived. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

async function ask(path, init = {}) {
  const bearer = token.get();
  const headers = { ...init.headers, ...(bearer ? { authorization: `Bearer ${bearer}` } : {}) };
  let answer;
  try {
    answer = await fetch(new URL(path, base), { ...init, headers, cache: 'no-store', credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new Refused(0, 'No answer from the worker.');
  }
  const body = await answer.json().catch(() => null);
  if (!answer.ok) throw new Refused(answer.status, body?.error?.message ?? `The worker answered ${answer.status}.`);
  return body;
}

const query = (fields) => {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined && value !== '');
  return new URLSearchParams(given).toString();
};

export const api = {
  sessions: (wish, signal) => ask(`sessions?${query(wish)}`, { signal }),
  session: (id, signal) => ask(`sessions/${encodeURIComponent(id)}`, { signal }),
  workers: (signal) => ask('workers', { signal }),
  overview: (window, signal) => ask(`overview?${query({ window })}`, { signal }),
  turns: (wish, signal) => ask(`turns?${query(wish)}`, { signal }),
  story: (id, signal) => ask(`stories/${encodeURIComponent(id)}`, { signal }),
  failures: (wish, signal) => ask(`failures?${query(wish)}`, { signal }),
  ticket: () => ask('../inspect/ticket', { method: 'POST' }),
  machine: () => ask('machines/session'),
  act: (id, action) =>
    ask(`sessions/${encodeURIComponent(id)}/${action}`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{}',
    }),
};

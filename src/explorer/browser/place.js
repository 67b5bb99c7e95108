/** Pages by the first part of the URL fragment. */
const views = new Set(['overview', 'sessions', 'turns', 'failures', 'workers']);

/** Parses a fragment: `#/<view>/<id>?<filters>`. Anything else is the overview. */
export function readPlace(hash = location.hash) {
  const [path = '', query = ''] = hash.replace(/^#\/?/, '').split('?', 2);
  const [view, id] = path.split('/').map(decodeURIComponent);
  return {
    view: views.has(view) ? view : 'overview',
    id: id || null,
    filter: Object.fromEntries(new URLSearchParams(query)),
  };
}

/** Returns the fragment of a place. Empty filters are left out. */
export function hrefOf(view, id = null, filter = {}) {
  const given = Object.entries(filter).filter(([, value]) => value !== null && value !== undefined && value !== '');
  const query = given.length > 0 ? `?${new URLSearchParams(given)}` : '';
  return `#/${view}${id ? `/${encodeURIComponent(id)}` : ''}${query}`;
}

export const goTo = (view, id = null, filter = {}) => {
  location.hash = hrefOf(view, id, filter);
};

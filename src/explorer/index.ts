import express, { type RequestHandler, type Router } from 'express';
import { inlineSource } from '../headers.ts';
import { type Assets, readAssets } from './assets.ts';

/** Style sheets in cascade order: later ones may override earlier ones. */
const sheets = ['vendor/uplot.css', 'base.css', 'list.css', 'overview.css', 'session.css', 'chart.css', 'rest.css'];
/** Style sheets of the inspector, which draws the same charts. */
const inspectorSheets = [
  'base.css',
  'list.css',
  'overview.css',
  'session.css',
  'chart.css',
  'rest.css',
  'inspector.css',
];
/** Modules of the first page, fetched together instead of one after the other. Those of a session follow when it is opened. */
const first = [
  ...['api', 'failures', 'filters', 'html', 'overview', 'place', 'plot', 'poll', 'sessions', 'state', 'turnlist'],
  ...['words', 'workers', 'vendor/preact', 'vendor/hooks', 'vendor/htm', 'vendor/uplot'],
];

interface PageParts {
  title: string;
  /** Path of the files, relative to the page: the bridge's routes may be mounted below any path. */
  base: string;
  /** Module that renders the page. */
  main: string;
  sheets: readonly string[];
  preloaded: readonly string[];
}

const explorerPage = { title: 'Holdfast', base: './ui', main: 'main.js', sheets, preloaded: first };
const inspectorPage = {
  ...{ title: 'Holdfast inspector', base: './admin/ui', main: 'inspector.js', sheets: inspectorSheets, preloaded: [] },
};

/** Builds a page and its content security policy. */
function pageOf({ version, imports, get }: Assets, parts: PageParts): { html: string; policy: string } {
  const at = (name: string) => `${parts.base}/${version}/${name}`;
  const map = JSON.stringify({
    imports: Object.fromEntries(Object.entries(imports).map(([specifier, name]) => [specifier, at(name)])),
  });
  // In the package the modules are joined, and these files do not exist.
  const preloaded = parts.preloaded.map((name) => `${name}.js`).filter((name) => get(name));
  const html = `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>${parts.title}</title>
<link rel="icon" href="${at('icon.svg')}">
${parts.sheets.map((name) => `<link rel="stylesheet" href="${at(name)}">`).join('\n')}
<script type="importmap">${map}</script>
${preloaded.map((name) => `<link rel="modulepreload" href="${at(name)}">`).join('\n')}
<script type="module" src="${at(parts.main)}"></script>
</head>
<body>
<div id="app"></div>
</body>
</html>
`;
  const policy = [
    "default-src 'none'",
    `script-src 'self' ${inlineSource(map)}`,
    "style-src 'self'",
    "img-src 'self'",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    "require-trusted-types-for 'script'",
  ].join('; ');
  return { html, policy };
}

/**
 * Creates the routes of the session explorer at `GET /admin/ui`, and of the inspector's page at `GET /inspect`. The page and its files contain no data, so they can be
 * loaded without the admin token, which the page then asks for. All data comes from the admin API. Nothing is loaded
 * from other hosts.
 *
 * @param notFound answers a request for a file that does not exist
 */
export function explorer(notFound: RequestHandler): Router {
  const router = express.Router();
  let made: { assets: Assets; explorer: ReturnType<typeof pageOf>; inspector: ReturnType<typeof pageOf> } | null = null;
  // Load the files on first use: a worker whose explorer is never opened keeps none of them in memory.
  const parts = () => {
    if (!made) {
      const assets = readAssets();
      made = { assets, explorer: pageOf(assets, explorerPage), inspector: pageOf(assets, inspectorPage) };
    }
    return made;
  };
  const common = { 'referrer-policy': 'no-referrer', 'x-content-type-options': 'nosniff' };

  for (const [path, name] of [
    ['/admin/ui', 'explorer'],
    ['/inspect', 'inspector'],
  ] as const) {
    router.get(path, (req, res) => {
      // The page's URLs are relative to the path without a trailing slash.
      const query = req.originalUrl.includes('?') ? req.originalUrl.slice(req.originalUrl.indexOf('?')) : '';
      if (req.path.endsWith('/')) return void res.redirect(308, `..${path.slice(path.lastIndexOf('/'))}${query}`);
      const { html, policy } = parts()[name];
      res
        .set({ ...common, 'content-security-policy': policy, 'cache-control': 'no-store' })
        .type('html')
        .send(html);
    });
  }
  router.get('/admin/ui/:version/*name', (req, res, next) => {
    const { assets } = parts();
    const { version, name } = req.params as unknown as { version: string; name: string[] };
    const asset = assets.get(name.join('/'));
    if (!asset) return notFound(req, res, next);
    // During a rolling release the page may come from a worker of another version. Serve the current file, but do not
    // let the browser cache it.
    const isOurs = version === assets.version;
    res.set({
      ...common,
      'content-type': asset.type,
      'cross-origin-resource-policy': 'same-origin',
      'cache-control': isOurs ? 'public, max-age=31536000, immutable' : 'no-store',
    });
    res.vary('accept-encoding');
    if (req.acceptsEncodings('gzip') === 'gzip') res.set('content-encoding', 'gzip').end(asset.packed);
    else res.end(asset.body);
  });
  return router;
}

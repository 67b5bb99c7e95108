import { createHmac, timingSafeEqual } from 'node:crypto';
import express, { type Router } from 'express';
import { inlineSource } from '../../headers.ts';
import type { AccessRule } from '../../http/access.ts';
import type { Clock, Ids } from '../../system.ts';

/**
 * Tickets that each open one WebSocket. A browser cannot set a header on a WebSocket, and a token in a URL would end up
 * in logs and histories. The page therefore exchanges its token for a short-lived, single-use ticket.
 */
export interface Tickets {
  issue(): string;
  /** Uses up a ticket. Returns true only for a valid ticket, and only once. */
  redeem(ticket: string | null): boolean;
}

/** Lifetime of a ticket, in milliseconds. */
const GOOD_FOR = 30_000;
/** Time by which the clock of another worker may be ahead, in milliseconds. */
const CLOCK_SKEW = 10_000;
/** Maximum number of used tickets that are remembered; the oldest are dropped first. */
const MOST_USED = 1_000;

/**
 * Creates the tickets of a worker. Each is signed, so that another worker with the same key behind the same address takes it
 * too. A worker takes each ticket once.
 *
 * @param key secret of the installation
 */
export function createTickets({ clock, ids, key }: { clock: Pick<Clock, 'wall'>; ids: Ids; key: string }): Tickets {
  const used = new Set<string>();
  const sign = (text: string) => createHmac('sha256', key).update(`holdfast-inspector-ticket ${text}`).digest();
  return {
    issue() {
      const text = `${clock.wall() + GOOD_FOR}.${ids.uuid()}`;
      return `${text}.${sign(text).toString('base64url')}`;
    },
    redeem(ticket) {
      const parts = /^((\d{1,16})\.[0-9a-f-]{1,64})\.([\w-]{43})$/.exec(ticket ?? '');
      if (!parts) return false;
      const [whole, text, until, signature] = parts as unknown as [string, string, string, string];
      if (!timingSafeEqual(Buffer.from(signature, 'base64url'), sign(text))) return false;
      const left = Number(until) - clock.wall();
      if (left <= 0 || left > GOOD_FOR + CLOCK_SKEW || used.has(whole)) return false;
      used.add(whole);
      if (used.size > MOST_USED) used.delete(used.values().next().value!);
      return true;
    },
  };
}

const style = `
*{box-sizing:border-box;margin:0}
html,body{height:100%;font:14px system-ui,sans-serif}
body{display:grid;grid-template-rows:auto 1fr}
form{display:flex;gap:8px;padding:8px;align-items:center;flex-wrap:wrap}
input{padding:4px 6px}
iframe{width:100%;height:100%;border:0}
`;

/**
 * Script of the page. Forwards events to the framed inspector, and buffers them until the inspector has reported that
 * it is connected.
 */
const script = `
const frame = document.querySelector('iframe');
const form = document.querySelector('form');
const state = document.querySelector('output');
const home = new URL(frame.src).origin;
const MOST = 5000;
const PATIENCE_MS = 8000;
let waiting = [];
let connected = false;
let ws = null;
addEventListener('message', ({ source, origin, data }) => {
  if (source !== frame.contentWindow || origin !== home || data?.type !== '@statelyai.connected') return;
  connected = true;
  for (const event of waiting) frame.contentWindow.postMessage(event, home);
  waiting = [];
});
function show(event) {
  if (connected) frame.contentWindow.postMessage(event, home);
  else if (waiting.length < MOST) waiting.push(event);
}
async function watch() {
  ws?.close();
  const wish = new URLSearchParams();
  const { token, sessions, sample } = form.elements;
  for (const id of sessions.value.split(/[\\s,]+/)) if (id) wish.append('session', id);
  if (sample.value) wish.set('sample', sample.value);
  const headers = token.value ? { authorization: 'Bearer ' + token.value } : {};
  const answer = await fetch('./ticket', { method: 'POST', headers });
  if (!answer.ok) return void (state.value = 'not allowed (' + answer.status + ')');
  wish.set('ticket', (await answer.json()).ticket);
  const mine = new WebSocket(new URL('./socket?' + wish, location.href).href.replace(/^http/, 'ws'));
  ws = mine;
  let count = 0;
  mine.onopen = () => (state.value = 'watching');
  mine.onmessage = ({ data }) => {
    show(JSON.parse(data));
    state.value = 'watching, ' + (count += 1) + ' events';
  };
  mine.onclose = () => {
    if (ws === mine) state.value = 'disconnected after ' + count + ' events';
  };
}
const begin = () => watch().catch(() => (state.value = 'no connection'));
form.addEventListener('submit', (event) => {
  event.preventDefault();
  begin();
});
setTimeout(() => {
  if (!connected) state.value = home + ' does not answer' + (state.value ? '; ' + state.value : '');
}, PATIENCE_MS);
const named = new URLSearchParams(location.search).getAll('session');
form.elements.sessions.value = named.join(' ');
if (named.length > 0) begin();
`;

const escaped = (text: string) => text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);

const html = (inspectorUrl: string) => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Holdfast inspector</title>
<style>${style}</style>
</head>
<body>
<form autocomplete="off">
<label>Admin token <input name="token" type="password" size="16"></label>
<label>Sessions <input name="sessions" size="40" placeholder="ids; empty: a sample"></label>
<label>Sample <input name="sample" type="number" min="0" max="1" step="0.01" value="1"></label>
<button>Watch</button>
<output></output>
<a href="../inspect">Holdfast's own inspector</a>
</form>
<iframe title="Stately inspector" src="${escaped(inspectorUrl)}"></iframe>
<script>${script}</script>
</body>
</html>
`;

interface InspectPageOptions {
  /** Check made before a ticket is issued. Throws the error that the client receives. */
  allow: AccessRule;
  tickets: Tickets;
  /** Viewer to be framed, as an http(s) URL. */
  inspectorUrl: string;
}

/**
 * Creates the routes `GET /inspect/stately`, a page without any data that frames another viewer, and `POST /inspect/ticket`, which issues a ticket for the
 * WebSocket. The content security policy allows the page to run only its own script and to frame only the viewer, and
 * allows no page to frame it.
 */
export function inspectPage({ allow, tickets, inspectorUrl }: InspectPageOptions): Router {
  const router = express.Router();
  const page = html(inspectorUrl);
  const policy = [
    "default-src 'none'",
    `script-src ${inlineSource(script)}`,
    `style-src ${inlineSource(style)}`,
    "connect-src 'self'",
    `frame-src ${new URL(inspectorUrl).origin}`,
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ].join('; ');
  const headers = {
    'content-security-policy': policy,
    'referrer-policy': 'no-referrer',
    'x-content-type-options': 'nosniff',
    'cache-control': 'no-store',
  };
  router.get('/inspect/stately', (_req, res) => void res.set(headers).type('html').send(page));
  router.post('/inspect/ticket', (req, res) => {
    allow(req);
    res.set('cache-control', 'no-store').json({ ticket: tickets.issue() });
  });
  return router;
}

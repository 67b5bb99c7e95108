import { createServer } from 'node:http';
import { BridgeError, createBridge } from 'holdfast';
import { startSimulator } from 'holdfast/testing';

// Two simulated providers, so that the example needs no key.
const [large, small] = await Promise.all([startSimulator(), startSimulator()]);

/** Users of the app, by their tokens. An app looks them up in its own database or session store. */
const users = new Map([
  ['token-of-ann', { team: 'blue', blocked: false }],
  ['token-of-bob', { team: 'red', blocked: true }],
]);

const bridge = await createBridge({
  upstream: { url: large.url, key: 'sk-of-the-large-one' },
  upstreams: { small: { url: small.url, key: 'sk-of-the-small-one' } },
  hooks: {
    authenticate({ headers }) {
      const user = users.get(String(headers.authorization ?? '').replace(/^Bearer /, ''));
      if (!user) return null;
      if (user.blocked) throw new BridgeError('bridge_rate_limited', { retryAfterSeconds: 3600 });
      return { tenant: user.team };
    },
    chooseUpstream: ({ model }) => (model?.endsWith('-mini') ? 'small' : null),
    onTurn({ tenant, model, outcome, totalMs, tokens }) {
      console.log(`turn: ${tenant} ${model} ${outcome} ${tokens?.total} tokens in ${totalMs} ms`);
    },
    onSession({ from, to }) {
      if (to === 'live.idle') console.log(`session: ${from} -> ${to}`);
    },
  },
});

const server = createServer(bridge.handler);
server.on('upgrade', bridge.handleUpgrade);
server.listen(Number(process.env.PORT ?? 8787), '127.0.0.1', () => {
  const { port } = server.address() as { port: number };
  console.log(`http://127.0.0.1:${port}`);
});

for (const signal of ['SIGINT', 'SIGTERM'] as const)
  process.once(signal, async () => {
    await bridge.close();
    server.close(() => process.exit(0));
    server.closeIdleConnections();
  });

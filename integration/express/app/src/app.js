import { RedisStore } from 'connect-redis';
import express from 'express';
import session from 'express-session';
import { RateLimiterRedis } from 'rate-limiter-flexible';
import Redlock from 'redlock';

import { Catalogue } from './catalogue.js';
import { Chat } from './chat.js';
import { connect, connectForSessions } from './redis.js';
import { Mails } from './mails.js';

// A shop: sessions, cached products, counters, carts, orders, mails by a queue, a chat, a rate limit.
export async function createShop(url) {
  const redis = connect(url);
  const sessions = await connectForSessions(url);
  const catalogue = new Catalogue(redis);
  const chat = new Chat(redis, connect(url));
  const mails = new Mails(url, redis);
  const locks = new Redlock([redis], { retryCount: 10, retryDelay: 50 });
  const limiter = new RateLimiterRedis({ storeClient: redis, keyPrefix: 'limit', points: 1000, duration: 10 });

  const app = express();
  app.use(express.json());
  app.get('/ping', async (req, res) => res.json({ redis: await redis.ping() }));

  // Everybody is limited by the name that he gives; 1000 requests in 10 seconds.
  app.post('/login', async (req, res) => {
    try {
      await limiter.consume(req.body.user);
    } catch (refused) {
      if (refused instanceof Error) throw refused;
      return res.status(429).set('Retry-After', Math.ceil(refused.msBeforeNext / 1000)).json({ error: 'too many logins' });
    }
    return respond(req, res);
  });
  const respond = (req, res) => {
    withSession(req, res, (err) => {
      if (err) return fail(err, req, res);
      req.session.user = req.body.user;
      req.session.save((err) => (err ? fail(err, req, res) : res.json({ user: req.body.user })));
    });
  };
  const withSession = session({
    store: new RedisStore({ client: sessions, ttl: 3600, disableTouch: true }), // a login is for an hour
    secret: 'it is a test', resave: false, saveUninitialized: false, name: 'sid',
  });

  app.get('/products/:id', async (req, res) => res.json(await catalogue.get(req.params.id)));
  app.put('/products/:id', async (req, res) => res.json(await catalogue.put(req.params.id, req.body)));
  app.post('/products/:id/views', async (req, res) => res.json({ views: await redis.incr(`views:${req.params.id}`) }));
  app.get('/products/:id/views', async (req, res) => res.json({ views: Number(await redis.get(`views:${req.params.id}`)) }));
  app.post('/products/:id/stars', async (req, res) => res.json({ stars: Number(await redis.zincrby('stars', req.body.stars, req.params.id)) }));
  app.get('/stars', async (req, res) => {
    const flat = await redis.zrevrange('stars', 0, 9, 'WITHSCORES');
    res.json(flat.flatMap((id, i) => (i % 2 ? [] : [{ id, stars: Number(flat[i + 1]) }])));
  });
  app.post('/products/:id/tags', async (req, res) => res.json({ added: await redis.sadd(`tags:${req.params.id}`, req.body.tag) }));
  app.get('/products/:id/tags', async (req, res) => res.json((await redis.smembers(`tags:${req.params.id}`)).sort()));

  // What follows is for those who have logged in.
  app.use(withSession);
  app.use((req, res, next) => (req.session.user ? next() : res.status(401).json({ error: 'log in first' })));
  app.get('/me', (req, res) => res.json({ user: req.session.user }));
  app.put('/me', async (req, res) => {
    await redis.set(`profile:${req.session.user}`, JSON.stringify(req.body));
    res.json(req.body);
  });
  app.get('/me/profile', async (req, res) => res.json(JSON.parse((await redis.get(`profile:${req.session.user}`)) ?? 'null')));
  app.post('/cart', async (req, res) => {
    const n = await redis.hincrby(`cart:${req.session.user}`, req.body.product, req.body.n ?? 1);
    res.json({ n });
  });
  app.get('/cart', async (req, res) => res.json(await redis.hgetall(`cart:${req.session.user}`)));
  app.post('/messages', async (req, res) => {
    await chat.say(req.session.user, req.body.text);
    res.status(201).end();
  });
  app.get('/messages', async (req, res) => res.json({ recent: await chat.recent(), heard: chat.heard }));

  // One order of a user at a time; all of it or nothing.
  app.post('/orders', async (req, res) => {
    const user = req.session.user;
    const lock = await locks.lock(`lock:order:${user}`, 2000);
    try {
      const order = JSON.stringify({ id: req.body.id, cart: await redis.hgetall(`cart:${user}`) });
      const done = await redis.multi().lpush(`orders:${user}`, order).incr('orders').del(`cart:${user}`).exec();
      const failed = done.find(([err]) => err);
      if (failed) throw failed[0];
      res.status(201).json({ orders: done[0][1] });
    } finally {
      await lock.unlock().catch(() => {}); // it ends by itself
    }
  });
  app.get('/orders', async (req, res) => res.json((await redis.lrange(`orders:${req.session.user}`, 0, -1)).map(JSON.parse)));
  app.post('/mails', async (req, res) => res.status(202).json({ id: await mails.send(req.session.user, req.body.text) }));
  app.get('/mails', async (req, res) => res.json({ sent: await mails.sent() }));

  app.use((err, req, res, next) => (res.headersSent ? next(err) : fail(err, req, res)));

  await chat.ready;
  await mails.ready();
  return { app, close: () => Promise.all([mails.close(), chat.close(), sessions.close(), redis.quit()]) };
}

function fail(err, req, res) {
  res.status(503).json({ error: String(err.message) });
}

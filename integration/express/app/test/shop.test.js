import assert from 'node:assert/strict';
import { once } from 'node:events';
import { after, before, beforeEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { createShop } from '../src/app.js';
import { connect } from '../src/redis.js';

const url = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379';
let shop, server, base, redis;

before(async () => {
  redis = connect(url);
  await redis.flushdb();
  shop = await createShop(url);
  server = shop.app.listen(0, '127.0.0.1');
  await once(server, 'listening');
  base = `http://127.0.0.1:${server.address().port}`;
});

after(async () => {
  server.close();
  server.closeAllConnections();
  await shop.close();
  await redis.quit();
});

// A browser: it keeps the cookie.
class Visitor {
  cookie = '';

  async ask(method, path, body) {
    const response = await fetch(base + path, {
      method,
      headers: { 'content-type': 'application/json', cookie: this.cookie },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const set = response.headers.get('set-cookie');
    if (set) this.cookie = set.split(';')[0];
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  }

  async ok(method, path, body) {
    const answer = await this.ask(method, path, body);
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  }

  static async loggedIn(user) {
    const visitor = new Visitor();
    await visitor.ok('POST', '/login', { user });
    return visitor;
  }
}

async function until(holds) {
  for (let i = 0; i < 400; i++) {
    if (await holds()) return;
    await sleep(25);
  }
  assert.fail(`never: ${holds}`);
}

let n = 0;
let user;
beforeEach(() => {
  user = `user${++n}`;
});

test('a session is there for the next request, and for nobody else', async () => {
  assert.equal((await new Visitor().ask('GET', '/me')).status, 401);
  const ann = await Visitor.loggedIn(user);
  assert.deepEqual(await ann.ok('GET', '/me'), { user });
  assert.equal((await new Visitor().ask('GET', '/me')).status, 401);
  assert.ok((await redis.keys('sess:*')).length > 0);
});

test('a session ends with its ttl', async () => {
  await Visitor.loggedIn(user);
  const [key] = await redis.keys('sess:*');
  const ttl = await redis.ttl(key);
  assert.ok(ttl > 3500 && ttl <= 3600, `ttl ${ttl}`);
});

test('a product is read from the database once, and anew when it was changed', async () => {
  const visitor = new Visitor();
  assert.deepEqual(await visitor.ok('GET', '/products/7'), { id: '7', name: 'product 7' });
  assert.deepEqual(await visitor.ok('GET', '/products/7'), { id: '7', name: 'product 7' });
  assert.ok((await redis.ttl('product:7')) > 0);
  await visitor.ok('PUT', '/products/7', { name: 'a cup' });
  assert.deepEqual(await visitor.ok('GET', '/products/7'), { id: '7', name: 'a cup' });
});

test('views are counted one by one', async () => {
  const visitor = new Visitor();
  const seen = await Promise.all(Array.from({ length: 50 }, () => visitor.ok('POST', '/products/8/views')));
  assert.deepEqual(seen.map((s) => s.views).sort((a, b) => a - b), Array.from({ length: 50 }, (_, i) => i + 1));
  assert.deepEqual(await visitor.ok('GET', '/products/8/views'), { views: 50 });
});

test('stars make a ranking', async () => {
  const visitor = new Visitor();
  await visitor.ok('POST', '/products/a/stars', { stars: 3 });
  await visitor.ok('POST', '/products/b/stars', { stars: 5 });
  await visitor.ok('POST', '/products/a/stars', { stars: 4 });
  assert.deepEqual(await visitor.ok('GET', '/stars'), [{ id: 'a', stars: 7 }, { id: 'b', stars: 5 }]);
});

test('a tag is added once', async () => {
  const visitor = new Visitor();
  assert.deepEqual(await visitor.ok('POST', '/products/9/tags', { tag: 'blue' }), { added: 1 });
  assert.deepEqual(await visitor.ok('POST', '/products/9/tags', { tag: 'blue' }), { added: 0 });
  assert.deepEqual(await visitor.ok('GET', '/products/9/tags'), ['blue']);
});

test('what was ordered leaves the cart', async () => {
  const ann = await Visitor.loggedIn(user);
  await ann.ok('POST', '/cart', { product: 'cup', n: 2 });
  await ann.ok('POST', '/cart', { product: 'cup' });
  await ann.ok('POST', '/cart', { product: 'pot' });
  assert.deepEqual(await ann.ok('GET', '/cart'), { cup: '3', pot: '1' });
  assert.deepEqual(await ann.ok('POST', '/orders', { id: 1 }), { orders: 1 });
  assert.deepEqual(await ann.ok('GET', '/cart'), {});
  assert.deepEqual(await ann.ok('GET', '/orders'), [{ id: 1, cart: { cup: '3', pot: '1' } }]);
});

test('of many orders at once each is done, one after the other', async () => {
  const ann = await Visitor.loggedIn(user);
  const done = await Promise.all([1, 2, 3, 4, 5].map((id) => ann.ok('POST', '/orders', { id })));
  assert.deepEqual(done.map((d) => d.orders).sort(), [1, 2, 3, 4, 5]);
});

test('a profile is what was written last', async () => {
  const ann = await Visitor.loggedIn(user);
  assert.equal(await ann.ok('GET', '/me/profile'), null);
  for (const name of ['Ann', 'Anna', 'Anne']) await ann.ok('PUT', '/me', { name });
  assert.deepEqual(await ann.ok('GET', '/me/profile'), { name: 'Anne' });
});

test('a mail is sent by the worker', async () => {
  const ann = await Visitor.loggedIn(user);
  await ann.ok('POST', '/mails', { text: 'hello' });
  await until(async () => (await ann.ok('GET', '/mails')).sent.includes('hello'));
});

test('a message is heard, and kept', async () => {
  const ann = await Visitor.loggedIn(user);
  await ann.ok('POST', '/messages', { text: 'is anybody here?' });
  await until(async () => {
    const { recent, heard } = await ann.ok('GET', '/messages');
    return recent.some((m) => m.user === user) && heard.some((m) => m.user === user);
  });
});

test('who logs in too often is told when to come back', async () => {
  const visitor = new Visitor();
  await redis.set(`limit:${user}`, 1000, 'PX', 60000);
  const answer = await visitor.ask('POST', '/login', { user });
  assert.equal(answer.status, 429);
});

import assert from 'node:assert/strict';
import { after, before, beforeEach, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import Redis from 'ioredis';
import { createClient, createClientPool } from 'redis';

// What applications do with the two clients, beyond what the shop does.

const url = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379';

describe('ioredis', () => {
  let redis;
  before(() => {
    redis = new Redis(url, { connectionName: 'clients-test' });
  });
  beforeEach(() => redis.flushdb());
  after(() => redis.quit());

  test('strings, with all that SET can', async () => {
    assert.equal(await redis.set('k', 'v', 'EX', 100, 'NX'), 'OK');
    assert.equal(await redis.set('k', 'w', 'EX', 100, 'NX'), null);
    assert.equal(await redis.set('k', 'w', 'XX', 'GET'), 'v');
    assert.equal(await redis.getrange('k', 0, 0), 'w');
    assert.equal(await redis.getset('k', 'x'), 'w');
    assert.equal(await redis.incrbyfloat('f', 1.5), '1.5');
    assert.equal(await redis.getdel('f'), '1.5');
    assert.deepEqual(await redis.mget('k', 'none'), ['x', null]);
    assert.equal(await redis.mset({ a: 1, b: 2 }), 'OK');
    assert.equal(await redis.del('a', 'b', 'none'), 2);
    assert.deepEqual(await redis.setBuffer('bytes', Buffer.from([0, 255, 13, 10])), Buffer.from('OK'));
    assert.deepEqual(await redis.getBuffer('bytes'), Buffer.from([0, 255, 13, 10]));
  });

  test('hashes, lists, sets, sorted sets', async () => {
    await redis.hset('h', { a: 1, b: 2 });
    assert.deepEqual(await redis.hgetall('h'), { a: '1', b: '2' });
    assert.deepEqual(await redis.hmget('h', 'a', 'none'), ['1', null]);
    await redis.rpush('l', 1, 2, 3);
    assert.equal(await redis.lmove('l', 'm', 'LEFT', 'RIGHT'), '1');
    assert.deepEqual(await redis.lrange('l', 0, -1), ['2', '3']);
    await redis.sadd('s', 'a', 'b');
    assert.deepEqual((await redis.sinter('s', 's')).sort(), ['a', 'b']);
    await redis.zadd('z', 1, 'a', 2, 'b');
    assert.deepEqual(await redis.zrange('z', 0, -1, 'WITHSCORES'), ['a', '1', 'b', '2']);
    assert.deepEqual(await redis.zrangebyscore('z', '(1', '+inf'), ['b']);
  });

  test('streams with a group, geo, HyperLogLog, bits', async () => {
    await redis.xgroup('CREATE', 'x', 'g', '$', 'MKSTREAM');
    const id = await redis.xadd('x', '*', 'f', 'v');
    assert.deepEqual(await redis.xreadgroup('GROUP', 'g', 'me', 'COUNT', 10, 'STREAMS', 'x', '>'), [['x', [[id, ['f', 'v']]]]]);
    assert.equal(await redis.xack('x', 'g', id), 1);
    await redis.geoadd('geo', 13.361389, 38.115556, 'Palermo');
    assert.equal((await redis.geopos('geo', 'Palermo')).length, 1);
    await redis.pfadd('p', 'a', 'b');
    assert.equal(await redis.pfcount('p'), 2);
    await redis.setbit('bits', 7, 1);
    assert.equal(await redis.bitcount('bits'), 1);
  });

  test('a pipeline, answers and errors in order', async () => {
    const answers = await redis.pipeline().set('k', 'v').hget('k', 'f').get('k').incr('n').exec();
    assert.equal(answers[0][1], 'OK');
    assert.match(answers[1][0].message, /^WRONGTYPE /);
    assert.deepEqual(answers.slice(2), [[null, 'v'], [null, 1]]);
  });

  test('a transaction, done and not done', async () => {
    assert.deepEqual(await redis.multi().set('k', 1).incr('k').exec(), [[null, 'OK'], [null, 2]]);
    const other = redis.duplicate();
    await redis.watch('k');
    await other.set('k', 'changed');
    assert.equal(await redis.multi().set('k', 'mine').exec(), null);
    assert.equal(await redis.get('k'), 'changed');
    await other.quit();
  });

  test('a script, by name', async () => {
    redis.defineCommand('addAll', { numberOfKeys: 2, lua: 'return redis.call("INCRBY", KEYS[1], ARGV[1]) + redis.call("INCRBY", KEYS[2], ARGV[1])' });
    assert.equal(await redis.addAll('a', 'b', 5), 10);
    assert.equal(await redis.addAll('a', 'b', 5), 20);
    assert.equal(await redis.get('a'), '10');
  });

  test('scanning', async () => {
    for (let i = 0; i < 250; i++) await redis.set(`k${i}`, i);
    const found = new Set();
    for await (const keys of redis.scanStream({ match: 'k*', count: 50 })) keys.forEach((key) => found.add(key));
    assert.equal(found.size, 250);
    assert.equal(await redis.dbsize(), 250);
    assert.equal((await redis.keys('k1*')).length, 111);
  });

  test('messages, by channel and pattern', async () => {
    const subscriber = redis.duplicate();
    const heard = [];
    subscriber.on('message', (channel, message) => heard.push([channel, message]));
    subscriber.on('pmessage', (pattern, channel, message) => heard.push([pattern, channel, message]));
    assert.equal(await subscriber.subscribe('news'), 1);
    assert.equal(await subscriber.psubscribe('ne*'), 2);
    assert.equal(await redis.publish('news', 'hello'), 2);
    while (heard.length < 2) await sleep(5);
    assert.deepEqual(heard, [['news', 'hello'], ['ne*', 'news', 'hello']]);
    assert.equal(await subscriber.unsubscribe('news'), 1);
    assert.equal(await subscriber.punsubscribe('ne*'), 0);
    assert.equal(await subscriber.get('k'), null);
    await subscriber.quit();
  });

  test('waiting for a list', async () => {
    const waiter = redis.duplicate();
    const waits = waiter.blpop('jobs', 0);
    await sleep(20);
    await redis.rpush('jobs', 'job');
    assert.deepEqual(await waits, ['jobs', 'job']);
    assert.equal(await waiter.brpop('jobs', 0.05), null);
    await waiter.quit();
  });

  test('a prefix, and pipelines that make themselves', async () => {
    const other = new Redis(url, { keyPrefix: 'app:', enableAutoPipelining: true });
    await Promise.all([other.set('a', 1), other.set('b', 2)]);
    assert.deepEqual(await Promise.all([other.get('a'), other.get('b'), other.hgetall('none')]), ['1', '2', {}]);
    assert.equal(await redis.get('app:a'), '1');
    await other.quit();
  });

  test('the connection has its name', async () => {
    assert.match(await redis.client('GETNAME'), /clients-test/);
    assert.ok((await redis.client('ID')) > 0);
    assert.match(await redis.info(), /redis_version:/);
  });
});

for (const RESP of [2, 3]) {
  describe(`node-redis, RESP${RESP}`, () => {
    let redis;
    before(async () => {
      redis = await createClient({ url, RESP, name: 'clients-test' }).on('error', () => {}).connect();
    });
    beforeEach(() => redis.flushDb());
    after(() => redis.close());

    test('strings, hashes, lists, sets, sorted sets', async () => {
      assert.equal(await redis.set('k', 'v', { expiration: { type: 'EX', value: 100 }, condition: 'NX' }), 'OK');
      assert.equal(await redis.get('k'), 'v');
      assert.ok((await redis.ttl('k')) > 90);
      await redis.hSet('h', { a: 1, b: 2 });
      assert.deepEqual({ ...(await redis.hGetAll('h')) }, { a: '1', b: '2' });
      await redis.lPush('l', ['1', '2']);
      assert.deepEqual(await redis.lRange('l', 0, -1), ['2', '1']);
      await redis.sAdd('s', ['a', 'b']);
      assert.deepEqual([...(await redis.sMembers('s'))].sort(), ['a', 'b']);
      await redis.zAdd('z', [{ score: 1, value: 'a' }, { score: 2.5, value: 'b' }]);
      assert.deepEqual(await redis.zRangeWithScores('z', 0, -1), [{ score: 1, value: 'a' }, { score: 2.5, value: 'b' }]);
      assert.equal(await redis.zScore('z', 'b'), 2.5);
    });

    test('a transaction, and one over what somebody else has changed', async () => {
      assert.deepEqual(await redis.multi().set('k', '1').incr('k').exec(), ['OK', 2]);
      const other = await redis.duplicate().connect();
      await other.watch('k');
      await redis.set('k', 'changed');
      await assert.rejects(other.multi().set('k', 'mine').exec(), /watched keys has been changed/);
      await other.close();
      assert.equal(await redis.get('k'), 'changed');
    });

    test('commands of one tick are a pipeline', async () => {
      assert.deepEqual(await Promise.all([redis.incr('n'), redis.incr('n'), redis.hSet('h', 'f', 'v'), redis.incr('n')]), [1, 2, 1, 3]);
    });

    test('scanning', async () => {
      await Promise.all(Array.from({ length: 120 }, (_, i) => redis.set(`k${i}`, String(i))));
      const found = new Set();
      for await (const keys of redis.scanIterator({ MATCH: 'k*', COUNT: 50 })) [keys].flat().forEach((key) => found.add(key));
      assert.equal(found.size, 120);
    });

    test('messages', async () => {
      const subscriber = await redis.duplicate().connect();
      const heard = [];
      await subscriber.subscribe('news', (message, channel) => heard.push([channel, message]));
      await subscriber.pSubscribe('ne*', (message, channel) => heard.push(['ne*', channel, message]));
      assert.equal(await redis.publish('news', 'hello'), 2);
      while (heard.length < 2) await sleep(5);
      assert.deepEqual(heard.sort((a, b) => a.length - b.length), [['news', 'hello'], ['ne*', 'news', 'hello']]);
      await subscriber.unsubscribe('news');
      await subscriber.close();
    });

    test('a pool', async () => {
      const pool = await createClientPool({ url, RESP }, { minimum: 2, maximum: 3 }).on('error', () => {}).connect();
      assert.deepEqual(await Promise.all(Array.from({ length: 20 }, () => pool.incr('n'))).then((all) => all.sort((a, b) => a - b)), Array.from({ length: 20 }, (_, i) => i + 1));
      assert.deepEqual(await pool.blPop('none', 0.05), null);
      await pool.close();
    });

    test('a script, and an error', async () => {
      assert.equal(await redis.eval('return redis.call("SET", KEYS[1], ARGV[1]).ok', { keys: ['k'], arguments: ['v'] }), 'OK');
      await assert.rejects(redis.hGet('k', 'f'), /WRONGTYPE/);
      assert.equal(await redis.get('k'), 'v');
    });
  });
}

test('node-redis caches by itself, and hears of changes', async () => {
  const cached = await createClient({ url, RESP: 3, clientSideCache: { maxEntries: 100 } }).on('error', () => {}).connect();
  const other = await createClient({ url }).on('error', () => {}).connect();
  await other.set('k', 'v');
  assert.equal(await cached.get('k'), 'v');
  assert.equal(await cached.get('k'), 'v');
  await other.set('k', 'w');
  let got;
  for (let i = 0; i < 200 && got !== 'w'; i++) {
    got = await cached.get('k');
    await sleep(5);
  }
  assert.equal(got, 'w');
  await cached.close();
  await other.close();
});

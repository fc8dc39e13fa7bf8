import { setTimeout as sleep } from 'node:timers/promises';

// The products, in a database that takes its time, behind a cache.
export class Catalogue {
  #redis;
  #rows = new Map();
  reads = 0;

  constructor(redis) {
    this.#redis = redis;
  }

  async get(id) {
    const key = `product:${id}`;
    const cached = await this.#redis.get(key).catch(() => null); // the database has it, too
    if (cached !== null) return JSON.parse(cached);
    await sleep(5);
    this.reads++;
    const product = this.#rows.get(id) ?? { id, name: `product ${id}` };
    await this.#redis.set(key, JSON.stringify(product), 'EX', 60).catch(() => {});
    return product;
  }

  async put(id, product) {
    await sleep(5);
    this.#rows.set(id, { id, ...product });
    await this.#redis.del(`product:${id}`);
    return this.#rows.get(id);
  }
}

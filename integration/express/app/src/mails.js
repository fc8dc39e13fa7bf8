import { Queue, Worker } from 'bullmq';

import { connect } from './redis.js';

// Mails are sent by a worker, one after the other.
export class Mails {
  #queue;
  #worker;
  #redis;
  #connections;

  constructor(url, redis) {
    this.#redis = redis;
    this.#connections = [connect(url), connect(url, { maxRetriesPerRequest: null })];
    this.#queue = new Queue('mails', { connection: this.#connections[0] });
    this.#worker = new Worker('mails', (job) => redis.sadd('mails:sent', job.data.text), { connection: this.#connections[1] });
    for (const emitter of [this.#queue, this.#worker]) emitter.on('error', (err) => console.error('mails:', err.message));
  }

  ready() {
    return Promise.all([this.#queue.waitUntilReady(), this.#worker.waitUntilReady()]);
  }

  async send(to, text) {
    const job = await this.#queue.add('mail', { to, text }, { attempts: 20, backoff: { type: 'fixed', delay: 500 } });
    return job.id;
  }

  async sent() {
    return (await this.#redis.smembers('mails:sent')).sort();
  }

  async close() {
    await this.#worker.close();
    await this.#queue.close();
    for (const connection of this.#connections) connection.disconnect();
  }
}

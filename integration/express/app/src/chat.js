import { once } from 'node:events';

// Whoever says something is heard by all processes of the shop.
export class Chat {
  #redis;
  #subscriber;
  heard = [];

  constructor(redis, subscriber) {
    this.#redis = redis;
    this.#subscriber = subscriber;
    subscriber.on('message', (channel, message) => {
      this.heard.push(JSON.parse(message));
      this.heard = this.heard.slice(-100);
    });
    this.ready = subscriber.subscribe('chat');
  }

  async say(user, text) {
    const message = JSON.stringify({ user, text });
    await this.#redis.lpush('chat:recent', message);
    await this.#redis.ltrim('chat:recent', 0, 99);
    await this.#redis.publish('chat', message);
  }

  async recent() {
    return (await this.#redis.lrange('chat:recent', 0, 99)).map(JSON.parse);
  }

  async next() {
    await once(this.#subscriber, 'message');
    return this.heard.at(-1);
  }

  close() {
    return this.#subscriber.quit().catch(() => this.#subscriber.disconnect());
  }
}

import Redis from 'ioredis';
import { createClient } from 'redis';

export function connect(url, options = {}) {
  const redis = new Redis(url, options);
  redis.on('error', (err) => console.error('redis:', err.message));
  return redis;
}

export async function connectForSessions(url) {
  const client = createClient({ url });
  client.on('error', (err) => console.error('sessions:', err.message));
  await client.connect();
  return client;
}

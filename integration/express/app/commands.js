// Prints the commands that ioredis and node-redis have methods for, one a line: the name, and a
// subcommand where the method is for one.

import { list } from '@ioredis/commands';
import all from '@redis/client/dist/lib/commands/index.js';

const methods = Object.keys(all.default ?? all).filter((name) => name === name.toUpperCase());
const containers = new Set(['ACL', 'CLIENT', 'CLUSTER', 'COMMAND', 'CONFIG', 'FUNCTION', 'LATENCY', 'MEMORY', 'MODULE', 'OBJECT', 'PUBSUB', 'SCRIPT', 'XGROUP', 'XINFO']);
const commands = methods.map((name) => {
  const [first, ...rest] = name.split('_');
  if (name.includes('_RO')) return `${first}_RO`; // EVAL_RO, GEORADIUS_RO_WITH
  return containers.has(first) && rest.length > 0 ? `${first} ${rest[0]}` : first; // the rest says how it is called
});
console.log([...new Set([...list.map((name) => name.toUpperCase()), ...commands])].sort().join('\n'));

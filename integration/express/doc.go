// Package express puts an ordinary application behind the proxy: a shop on Express, in app/, with
// ioredis, node-redis, express-session, connect-redis, rate-limiter-flexible, bullmq and redlock. It
// knows nothing of the proxy; it is told another address.
//
//	make express            40 seconds; needs node, npm, and redis-server
//	go test -C integration ./express -v -for=60s
//
// Its own tests pass against Redis, and then against the proxy before it. Then Redis is killed while
// visitors use the shop, and comes back. What can go on must go on without an error; what was
// acknowledged must be in Redis afterwards, once; and the proxy's page must tell what was refused.
// With -v the end is a table of it.
package express

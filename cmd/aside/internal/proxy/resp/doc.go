// Package resp serves a proxy.Store to whatever speaks to Redis: redis-cli, go-redis, rueidis,
// phpredis.
//
// Requests are read by a guard (guard.go) that bounds what a client can make us hold; commands are
// registered with, dispatched by and answered through miniredis's server package, whose own reader
// is left out: it takes whatever length a client claims, panics at *0, knows no inline commands,
// and costs two goroutines and a write per command.
//
//	bytes → guard → args → Server.Dispatch → handler → Peer → replies → bytes
//	                                           ↕
//	                                       proxy.Store
//
// One goroutine serves a connection; a second reads ahead while a write stalls. What is answered is
// held back while further requests of a pipeline are there to be read, and written before the
// goroutine waits for anything from the client: there is no state in which a reply waits for a
// request.
//
// # What is different from Redis
//
//   - There is one database, Options.DB. SELECT of another says that it is out of range, and
//     nothing is done with keys until one that is not.
//   - There are no transactions: what follows a MULTI is refused until EXEC, DISCARD or RESET
//     (unserved.go).
//   - Keys that begin with "aside:" are the library's own: refused by all commands, and not shown
//     by SCAN, KEYS and DBSIZE. KEYS and DBSIZE go through SCAN: what changes meanwhile is counted
//     or not. They may show a key that somebody is just loading, or whose absence is remembered; to
//     all other commands there is no such key. Before a Redis Cluster, whose nodes each know their
//     own keys only, they are refused.
//   - MSET is as many SETs at once, not one step. An error names how many of them were not done;
//     the others were.
//   - A ttl of more than 100 years is none.
//   - Keys are at most Options.MaxKeyBytes long, values MaxValueBytes, requests MaxRequestBytes.
//     What is larger is read away and answered with an error.
//   - GET of what was put by HTTP returns its body. APPEND, INCR and the like keep its content
//     type; a SET does not.
//   - Commands and replies are those of Redis 7, though it be Redis 6.0 that is behind.
//   - Of the subcommands of CLIENT, COMMAND and CONFIG those are served that clients need when they
//     connect. CLIENT TRACKING is refused: nothing is pushed.
//   - Replies are not piled up. Where a client sends on without reading them, its requests are read
//     ahead (stall.go), up to MaxRequestBytes; it is cut off once it has neither sent nor taken
//     anything for Options.WriteTimeout.
//   - A bulk string that its length does not describe ends the connection, where Redis takes two
//     bytes for the end of the line unseen.
//
// # While Redis is away
//
// A reply is right, or it is an error whose first word says what it is about:
//
//	ASIDEDEGRADED  Redis is away: what is here does not answer this; or a write is in memory only, as there is no fallback directory
//	ASIDEFULL      a write was not done, as the fallback directory is full
//	ASIDEDISK      a write was not done, as the fallback directory cannot be written
//	ASIDEUNKNOWN   a write was sent to Redis and not answered: it may or may not be done
//	ASIDEBUSY      service.concurrency calls are being served, and Options.RequestTimeout has passed; or all clients together send too much at once
//	ASIDETIMEOUT   Options.RequestTimeout has passed, and nothing was changed
//	ASIDECLOSED    the proxy is shutting down
//
// GET, MGET, EXISTS, STRLEN, TYPE, TTL and PTTL answer what is known here. SET (with EX, PX, EXAT,
// PXAT or none), SETEX, PSETEX, MSET, DEL and UNLINK are acknowledged once they are on disk. DEL
// and UNLINK count the keys that were there just before; of those of which nobody here can tell
// while Redis is away, none. What reads and writes in one step, and what lists keys, says
// ASIDEDEGRADED.
package resp

// Package resp serves a proxy.Store to Redis clients: redis-cli, go-redis, rueidis,
// phpredis.
//
// Requests are read by a guard (guard.go) that bounds what a client can make us hold. Commands are
// looked up in a table that never changes (commands.go), and write their replies in the client's
// version of the protocol (answer.go).
//
//	bytes → guard → args → conn.command → handler → replies → bytes
//	                                         ↕
//	                                    proxy.Store
//
// One goroutine serves a connection; a second reads ahead while a write stalls. Replies are held
// back while further requests of a pipeline have arrived, and written before the goroutine waits
// for anything from the client: no reply ever waits for a request.
//
// Commands that are not served here go to Redis as they are, by package upstream, and its replies
// come back byte by byte (pass.go). Transactions, blocking commands and subscriptions have a
// connection of the client's own (own.go, relay.go). Without Options.Redis all these are unknown.
//
// # What is different from Redis
//
//   - Memory is of one database, Options.DB, and of one user. Who selects another, or logs in as
//     another, is connected through (through.go). After a SELECT that is refused, commands on keys
//     are refused until one that succeeds.
//   - What follows a MULTI that is refused, is refused until EXEC, DISCARD or RESET (unserved.go).
//   - Keys that begin with "aside:" are the library's own: refused by all commands, and not shown
//     by SCAN, KEYS, RANDOMKEY and DBSIZE. Scripts may reach them all the same. KEYS and DBSIZE go
//     through SCAN: a key that changes meanwhile may be counted or not. They may show a key that is
//     being loaded, or whose absence is cached; to all other commands that are served here there is
//     no such key. Before a Redis Cluster all primaries are asked (keys_cluster.go).
//   - MSET is as many SETs at once, not one step. An error names how many of them were not done;
//     the others were.
//   - A ttl of more than 100 years means no expiry.
//   - Keys are at most Options.MaxKeyBytes long, values MaxValueBytes, requests MaxRequestBytes.
//     A larger one is read away and answered with an error.
//   - GET of a value that was put by HTTP returns its body. APPEND, INCR and the like keep its
//     content type; a SET does not.
//   - Commands and replies are those of Redis 7, even in front of Redis 6.0.
//   - Of the subcommands of CLIENT, COMMAND and CONFIG those are served that clients need when they
//     connect. CLIENT TRACKING is Redis's.
//   - Replies are not collected without bound. If a client sends on without reading them, its
//     requests are read ahead (stall.go), up to MaxRequestBytes; it is disconnected once it has
//     neither sent nor read anything for Options.WriteTimeout.
//   - A bulk string of another length than it claims ends the connection; Redis skips two bytes for
//     the end of the line without looking.
//
// # While Redis is away
//
// A reply is correct, or it is an error whose first word is its kind:
//
//	ASIDEDEGRADED  Redis is away, and the proxy does not have what the answer needs; or a write is in memory only, as there is no fallback directory
//	ASIDEFULL      a write was not done, as the fallback directory is full
//	ASIDEDISK      a write was not done, as the fallback directory cannot be written
//	ASIDEUNKNOWN   a write was sent to Redis and not answered: it may or may not be done
//	ASIDEBUSY      service.concurrency calls are being served, and Options.RequestTimeout has passed; or all clients together send too much at once
//	ASIDETIMEOUT   Options.RequestTimeout has passed, and nothing was changed
//	ASIDECLOSED    the proxy is shutting down
//
// Reads of strings answer from what the proxy has. SET (with EX, PX,
// EXAT, PXAT or none), SETEX, PSETEX, MSET, DEL and UNLINK are acknowledged once they are on disk.
// DEL and UNLINK count the keys that were there just before; while Redis is away, keys that may be
// there are not counted. What becomes of each command is in Outages (outage.go). Each is a function
// of its arguments and of what is known here (steps.go); what follows from operations that are kept is
// worked out from them (fold.go). A transaction is held until its EXEC (away_multi.go).
package resp

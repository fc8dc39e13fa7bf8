// Package upstream speaks RESP to the Redis behind the proxy, for the commands that are passed on to
// it: what a client sends goes there as it is, and Redis's reply comes back byte by byte, in the
// client's version of the protocol. rueidis decodes replies, always asks in RESP3, and has no
// connection on which a client may do as it likes; see docs/adr/0014.
//
// A Pool has one shared connection for each version of the protocol, on which the commands of many
// clients travel together, and hands out connections of a client's own.
package upstream

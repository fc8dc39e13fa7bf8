// Package link asks Redis. It knows which server has a key, whether that server lives and what time
// it is there, how a command gets to it, and what an error means. It knows nothing of caching: no
// values, loads, locks or records.
//
// Upwards a Link has one struct of functions, Hooks: a key has changed, everything may have
// changed, a shard has another mode. Downwards there are these verbs:
//
//	Connect            connects, in the background, until Close
//	Shard, Home        find the shard of a key (Home: one that nobody can ask, where none is known)
//	Run, RunAll        ask one shard: a call is a script with keys, arguments and, later, its answer
//	Batches, RunBatches split a list of keys into calls, and ask all shards at the same time
//	Batcher            sends the requests of many callers in one call, under load
//	InTurn             lets large values pass one after the other
//	ServerTime         estimates the clock of a shard's server
//	Lend, OwnClient    give the user a client for commands of its own
//	CaughtUp           tells that a shard has been told all that it had missed
//	Health, Counts     say how it goes
//
// The files, from the ground up:
//
//	session, connect, traffic   a rueidis client, its connections, and the bytes on them
//	topology, shard, failover   which primary has a key, and which server a primary is
//	probe, push, spread, flushed, longest   what the prober finds out on a connection
//	mode, health, outagelog     who decides that Redis is away, and what is said of it
//	clock                       what time it is at a server
//	call, batch, batcher        one command, many keys, many callers
//	gate, turns, patience       how much may be under way, and how long an answer is waited for
//	judge, errors               what an error means; one place decides
//	own, guard, noted, lend     rueidis for the user
//
// # Locks
//
// The fields of Link and Shard stand in groups that say who may touch them. Three locks are held
// while other code runs: topoMu, while a topology is replaced; the token of Shard.probing, while a
// probe runs; and Shard.state.mu, while a mode changes. They are taken in that order. ModeChanged,
// Outage and what that returns are called with state.mu held, Started and TookOver with topoMu.
//
// A link begins no goroutine by itself: Hooks.InBackground does, so that Close can wait for them.
// All of them end with closing, the context that New is given, or when their shard has left.
package link

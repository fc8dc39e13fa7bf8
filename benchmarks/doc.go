// Package benchmarks compares aside with what one would use instead: in one run, against one Redis,
// with one type of value and one codec. It is a module of its own, so that what it compares with
// does not end up in anybody's go.sum.
//
//	benchmarks/run.sh             # all of it, 6 times, with the targets beside the ratios
//	benchmarks/run.sh 2           # quicker, less sure
//	benchmarks/run.sh 6 --write   # also writes docs/BENCHMARKS.md
//
// Redis is the one at REDIS_ADDR, whose keys with the prefix "bench:" are then used and expire
// within minutes, else a redis-server from PATH on a free port.
package benchmarks

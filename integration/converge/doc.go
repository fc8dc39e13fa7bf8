// Package converge shows promises 2, 3, 6, 9 and 10 with several processes, each behind a network of
// its own that fails now and then:
//
//	go test -C integration ./converge                          200 schedules and 40 with views, three minutes
//	go test -C integration ./converge -schedules=2000          more
//	go test -C integration ./converge -seed=42 -schedules=1    one that has failed, again
//
// A schedule (schedule_test.go) has three nodes on one Redis. Workers (work_test.go) read and write
// a few keys through them, as cache-aside writers do: first the source gets a new version, then the
// cache is told by Set or Del. Meanwhile (plan_test.go) proxies refuse, swallow, delay and reset,
// the server freezes or is replaced, processes are killed. Then all is healed, the nodes replay
// what they owe, and what everybody has seen is checked against the versions (history_test.go).
//
// The seed decides what the workers and the faults do. Real time decides when, so a seed that has
// failed may have to be run several times until it fails again: -count=20.
//
// A schedule with views (promises_test.go, view_test.go) has processes that are also stopped and go
// on, a source that fails, and calls that need more: WithMaxStale, WithMaxAge, WithFresh, Refresh,
// Expire, Clear, DelTags, ExpireTags, SetMulti. Each value has a number, so that it is known when its
// load began, whoever serves it. Half of them are healthy: networks fall silent for longer than the
// lease and less than RedisTimeout, so that most reads are by processes which ask Redis.
//
// Beside that (linear_test.go) histories of one key are checked by porcupine to be those of a
// register, and (fleet_test.go) the loads of a fleet that wants one key are counted.
package converge

// Package crash shows promise 5: a Set or Del that was acknowledged survives kill -9, whatever the
// process was doing.
//
//	go test -C integration ./crash                 200 kills, about half a minute
//	go test -C integration ./crash -kills=1000     more
//	go test -C integration ./crash -seed=42        the same schedule again, as far as real time lets it be
//
// A writer process (writer_test.go) sets and deletes keys through a Redis that is away most of the
// time, and says of each operation that it begins and that it was acknowledged. The test
// (crash_test.go) kills it at random moments, starts the next one on the same directory, and now
// and then lets Redis come back for good and compares what Redis then has with what was said
// (history_test.go).
//
// An operator (operations_writer_test.go) does the same with operations, whose Redis is killed, too
// (operations_test.go): -opkills=500 for more.
package crash

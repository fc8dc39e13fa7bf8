// Package faults is the fault matrix: what callers notice and what is lost when Redis is refused,
// killed, frozen, cut off, slow, loading, read-only, full, replaced, or in part away. It consists
// of tests:
//
//	go test -C integration ./faults                     every row in short form, in a minute and a half
//	go test -C integration ./faults -run Matrix/frozen  some rows
//	go test -C integration ./faults -run Matrix -full -v -table ../../docs/FAULTS.md
//
// The last one takes several minutes, wants the machine for itself, and writes the table that
// stands in the documentation.
//
// A rule that must hold at any speed fails a test: nothing acknowledged is lost, nothing stale is
// served, modes change as drawn, nobody asks a Redis that was given up, nothing is left behind. A
// goal with a time in it is measured, and printed with a mark, but fails nothing: a busy machine
// would.
package faults

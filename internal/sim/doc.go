// Package sim has the rule by which explicit writes are replayed after an outage, as functions of
// what Redis holds for a key (merge.go), and a simulation that shows what comes of that rule, of
// plainer ones, and of the rule without each of its parts.
//
//   - [Apply] and [Replay] are what the scripts of the root do. A test of the root compares the two
//     on a real server.
//   - [Run] runs trials of a [Policy] (world.go says what happens in one), [Trace] tells one of
//     them.
//   - cmd/sim prints the tables of the documentation.
//
// Nothing here knows Redis. A trial takes about two microseconds, and is the same each time it is
// run.
package sim

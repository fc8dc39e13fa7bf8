// Package ledger simulates operations that are kept in an outage, each of which is to be done once (docs/adr/0016).
//
// A trial is one key, a server, and three processes with a directory each. What happens is random: Apply, Set, Del and
// Update; replays, of which a process may have two; connections that go and come; answers that are lost, and commands that
// come late or never; kills between any two steps, also between the files and the journal; clocks that are off; servers that
// restart with all, with what their disk has, or are followed by a replica that lacks the latest; FLUSHALL; ledgers, stamps
// and values that are evicted or expire. At last everybody is connected, and all comes to rest.
//
// What decides is the code itself: the scripts as internal/fakeredis has them, fallback.Memory for the index of a directory
// and the merging of lists, internal/deferred, internal/keeping, link.WriteWindow and stamp.Stamper. What is modelled is who
// asks them, and when:
//
//   - directory.go: journal, files and flusher of a fallback.Dir;
//   - calls.go: operator.apply, write.perform and writer.update of the root;
//   - replay.go: replayer.claimed, ledgers.open, ledgers.operate and ledgers.outcome;
//   - server.go: what is sent, and what the server has done.
//
// The server tells each command that it does. Each addition is another power of 4, and each member of a list another one, so
// how often an operation was done can be told, and is restored with the data where a server loses some. verdict.go has what
// must not happen: that an acknowledged operation is done twice, or is settled though it was neither done nor rejected and
// nobody has set or deleted the key since; that it is reported for a reason that there was not; that two of a process
// are done in the wrong order; that a Set or Del of before overwrites it.
//
// Not counted as such is what ADR 16 calls the price: that a Set or Del which waits overwrites what others did meanwhile, if
// operations follow it; or that one does whose process had a late command done in between. Nor is it if an operation is not there
// that was made while the Set or Del of another process was under way: either order is right. And nobody can tell where stamps were evicted.
//
// rules.go names the rules, and what comes of leaving one out. A trial takes about 100 microseconds, and is the same each time.
package ledger

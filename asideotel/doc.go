// Package asideotel tells OpenTelemetry what an [aside.Client] does: spans of its calls, waits, loads
// and refreshes, and metrics. It is a module of its own, so that the library does not depend on
// OpenTelemetry.
//
//	observer := asideotel.New() // otel's global providers; set them first
//	client, err := aside.New(aside.Options{Observer: observer})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	if _, err := observer.Register(client); err != nil { // the counters of aside.Stats
//		return err
//	}
//	users := aside.Typed(client, codec.JSON[User](), aside.WithName("users"))
//
// A call that memory answers makes no span and no measurement; it is counted, and the count is read
// at collection. Any other call makes these:
//
//	get users                  kind client; db.system.name, db.operation.name, aside.source (redis, loader, disk), aside.stale
//	├─ wait users              for a load of another call of this process (a link leads to its span) or of another process
//	└─ load users              the loader; its own calls (a database's, say) are within it
//	set users                  a write; an event tells of each key that is kept for replay
//	refresh users              a root: it runs for nobody
//	└─ load users
//
// Attributes name views ([aside.WithName]) and never keys, and no error's text, which has keys in it:
// error.type tells which kind of error it was. Probes make no spans. docs/OBSERVABILITY.md lists the
// metrics.
package asideotel

// Package aside is a typed cache-aside client for Redis that keeps working while Redis is down.
//
//	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}})
//	users := aside.Typed(client, codec.JSON[User]())
//	user, err := users.Get(ctx, time.Minute, "user:42", func(ctx context.Context, key string) (User, error) {
//		return db.UserByID(ctx, 42)
//	})
//
// # Get
//
// [Client.Get] answers from this process's memory. If the key is not there, it asks Redis, in one
// round trip. If Redis has no value either, Get takes the lock on the key, calls the loader and
// stores the result. At most one process loads a key at a time, with one loader call for all
// callers: callers in one process share a flight, and other processes wait until Redis's
// invalidation message tells them that the key was filled. If the process that loads dies, the
// others wait until its lock expires, LockTTL at most. A loader's error also answers new callers in
// this process, for Options.ErrorTTL or [WithErrorTTL], unless the key is written meanwhile.
//
// [Client.GetMulti] does the same for many keys, with one request per shard and one call of the
// loader. [Client.Fetch] and [Client.FetchMulti] are Get and GetMulti that also tell where a value is
// from, how old it is, and whether it is stale ([Result]). [Client.Peek] and [Client.Look] never load. [Client.Set], [Client.Del] and [Client.Touch]
// write. [Client.Update] surrounds other Redis commands on cached keys. [Client.Incr] and [Client.Apply]
// change keys whatever they hold, also while Redis is away.
//
// # Typed
//
// [Typed] returns a typed view of a [Client]: create as many as you like, there is nothing to
// close. Callers may change the values they get, unless the view is Shared. Package codec has JSON,
// Gob, String, Bytes and Func; codec/msgpack, codec/proto and codec/zstd (compression) stand beside
// it.
//
// # Lock
//
// While a key is being loaded, it holds the marker of that load. A Set or Del by any process
// replaces or removes the marker, and Redis then refuses the fill: a load never overwrites what was
// written after it began. The lock is renewed as long as the loader runs. Once it is found to be lost
// the loader's context ends with the cause [ErrLockLost], and its callers start over.
//
// What a loader knows of its result it says to [LoadFrom] its context: a ttl, a grace, or that it must
// not be stored. [StaleOf] is the value that a refresh replaces, for conditional requests.
//
// # Outage
//
// New succeeds without Redis, unless RequireRedis is set, and connects in the background. A shard
// that does not answer is [Degraded]: callers no longer ask it, only its prober does. Reads are
// then answered from memory (for DegradedTTL), from disk, or by the loader, MaxLoaders at once. Set
// and Del are on disk (Options.FallbackDir) before they return nil. When the shard answers again it
// is [Recovering]: pending writes are replayed, unless something newer is there. Then it is
// [Healthy]. [Client.Health] and [Client.OnModeChange] report the mode. A call waits for
// RedisTimeout at most while Redis is silent, and after the first few calls not at all. In a
// cluster each primary has a mode of its own.
//
// # Guarantees
//
//   - A cold key is loaded once across processes, while the process that holds its lock lives.
//   - A Set or Del that returned nil is not undone by a load that began before it.
//   - A Set or Del that returned nil while Redis was down survives kill -9, and with fallback.Always also loss of
//     power. Its replay replaces nothing that was written later and brings back nothing that was deleted. Where
//     clocks cannot tell which of two writes was later (within 100 ms), it leaves the key empty.
//   - After Del returned nil this process never serves the old value. Other processes stop serving it when the
//     invalidation arrives, and after StaleLease at the latest, even if the network fails silently.
//   - While Redis is known to be down, values that others have changed may be served for DegradedTTL.
//   - A call ends when its own context does. An error or panic of a loader reaches all waiting callers and releases
//     the lock.
//   - Close leaves no goroutine and no connection, except for loaders that ignore their context, which it reports.
//
// Not promised: that a loader's side effects happen once (its process may be paused for longer than
// its lock lasts); writes that Redis acknowledged and then lost in a failover; anything about
// programs that change the source and die before their Del.
//
// # Glossary
//
// Values:
//
//   - key: where a value is kept; any bytes.
//   - entry: what this process's memory holds for a key.
//   - miss: neither memory nor Redis has the key.
//   - absence: the cached answer that there is no value; also called negative caching.
//   - loader: the user's function that reads the source. A load is one call of it.
//   - fill: the write that stores a loaded value. Redis accepts or refuses it.
//   - grace: for how long beyond its ttl a value is kept, to be served while it is refreshed, see [WithGrace].
//   - fresh, stale: more than the grace is left of a key's ttl; only the grace is.
//   - refresh: a load that replaces a stale value, under a refresh lock.
//   - marker: what a key holds while it is being loaded; it is the lock.
//   - holder, waiter: the process that has the lock; a caller that waits for it.
//   - flight: the callers of one key in this process that share one answer. The first is its leader; a ticket is one
//     caller's place in it.
//   - early: a loaded value is early while callers already have it but Redis has not acknowledged the fill.
//   - stripe, generation: a part of the local memory, and the count of invalidations in it. An answer is stored only
//     if the generation is the same as before the request.
//
// Connections:
//
//   - shard: one primary of a cluster, or the one server.
//   - mode: healthy, degraded or recovering; each shard has its own. Away means degraded.
//   - prober: the goroutine that tests a shard several times a second: whether it lives, pushes invalidations and
//     takes writes, and what time it is there. While nobody uses the client it sends a PING every 1.4 s.
//   - lease: how long memory may be used after the last proof that no invalidation is missing.
//   - epoch: the life of one connection. What was read in an earlier epoch is not used.
//   - batch: one script call that carries the requests of several callers.
//
// Outages:
//
//   - fallback store: keeps writes and loaded values while Redis is away, in memory or, as a journal and files, on
//     disk.
//   - record: what the store has for one key. The record of a Set or Del is pending until Redis has answered for it;
//     then it is settled, and leaves the store.
//   - explicit write: a Set or Del, as opposed to a fill.
//   - replay: sending records to Redis. Each is applied, superseded (something newer is there) or refused; two writes
//     that clocks cannot order are contested, and leave the key empty.
//   - stamp: which client wrote a key last, and when. Set and Del leave it in Redis.
//   - slack: by how much the clock behind a stamp may be wrong.
package aside

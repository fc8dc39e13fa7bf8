// Package aside is a typed cache-aside client for Redis that keeps working when Redis does not.
//
//	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}}})
//	users := aside.Typed(client, codec.JSON[User]())
//	user, err := users.Get(ctx, time.Minute, "user:42", func(ctx context.Context, key string) (User, error) {
//		return db.UserByID(ctx, 42)
//	})
//
// # Get
//
// [Client.Get] answers from this process's memory; else from Redis, in one round trip; else it takes the lock on the key,
// calls the loader, and stores what that returned, in two. At most one process loads a key at a time, once for all who
// ask: callers of one process share a flight, other processes wait and are woken by the invalidation that Redis pushes
// when the key is filled. A holder that dies costs its waiters what is left of LockTTL.
// The error of a loader answers this process's next callers too, for Options.ErrorTTL or [WithErrorTTL], unless the key is written meanwhile.
//
// [Client.GetMulti] does the same for many keys, with one question per shard and one call of the loader. [Client.Peek]
// and [Client.Look] never load. [Client.Set], [Client.Del] and [Client.Touch] write; [Client.Update] is for commands of Redis's own.
//
// # Typed
//
// [Typed] puts a codec in front of a [Client]; such a view costs nothing and owns nothing. What it returns is the caller's
// to change. Package codec has JSON, Gob, String, Bytes and Func; codec/msgpack, codec/proto and codec/zstd, which compresses, stand beside it.
//
// # Lock
//
// While a key is being loaded it holds its load's marker. A Set or Del meanwhile, by any process, replaces or removes the
// marker, and the fill that follows is refused: a load never overwrites what was written after it began. The lock of a
// living holder is renewed as long as its loader runs.
//
// # Outage
//
// New succeeds without Redis, unless RequireRedis is set, and connects in the background. A shard that does not answer is
// [Degraded]: no call asks it, only its prober does. Reads are answered from memory, for DegradedTTL, from disk, and from the
// loader, of which MaxLoaders run at once. Set and Del are on disk (Options.FallbackDir) before they return nil. When the shard
// answers again it is [Recovering]: what was written is replayed, unless something newer is there, and then [Healthy].
// [Client.Health] and [Client.OnModeChange] tell. A call waits for a silent Redis at most RedisTimeout, and after the first few
// not at all. In a cluster each primary is judged by itself.
//
// # Guarantees
//
//   - One load per cold key across processes, while the lock's holder lives.
//   - A Set or Del that returned nil is not undone by a load that began before it.
//   - A Set or Del that returned nil while Redis was away survives kill -9, and with fallback.Always loss of power. Its replay
//     replaces nothing that was written later and brings back nothing that was deleted. Where clocks cannot tell what was
//     later (100 ms), it leaves nothing.
//   - After Del returned nil this process never serves the old value; another not after the push has reached it, and never
//     longer than StaleLease, even if the network fails silently.
//   - While Redis is known to be away, what others have changed may be served for DegradedTTL.
//   - A call ends with its own context. An error or a panic of a loader reaches all who wait and frees the key.
//   - Close leaves no goroutine and no connection, except for loaders that do not heed their context, which it reports.
//
// Not promised: that a loader's side effects happen once (a holder may be paused beyond its lock); what Redis acknowledged
// and lost in a failover; anything about writers that change the source and die before their Del.
//
// # Glossary
//
//   - key: where a value is kept; any bytes.
//   - entry: what this process's memory holds for a key.
//   - miss: neither memory nor Redis has the key.
//   - loader: the user's function that reads the source; a load is one call of it.
//   - fill: to store what was loaded; it is accepted or refused.
//   - marker: what a key holds while it is being loaded; its lock.
//   - holder, waiter: who loads; who waits for that.
//   - flight: the callers of one key in one process.
//   - absence: the remembered answer that there is no such value; others say negative caching.
//   - lease: for how long memory may be used after the last proof that no invalidation is missing.
//   - epoch: a connection's life; what was read in an earlier one is not used.
//   - shard: one primary of a cluster, or the one server.
//   - mode: healthy, degraded or recovering, of each shard.
//   - fallback store: what is kept of writes and loads while Redis is away; its journal and files are on disk.
//   - record: what the store has of one key. An explicit one, of a Set or Del, is pending until Redis has answered for it.
//   - replay: to hand records to Redis; each is applied, or found to be superseded.
//   - stamp: who has written a key last, and when; Set and Del leave it beside the key.
//   - prober: what asks a shard whether it lives, and what time it is there.
package aside

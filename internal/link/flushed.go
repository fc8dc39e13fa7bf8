package link

import (
	"context"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/script"
	"github.com/redaside/aside/internal/slot"
)

// FLUSHALL and FLUSHDB leave no trace of their own, and take stamps along. Whoever is cut off
// meanwhile would bring back, with a replay, what they have deleted. So each database, in a cluster
// each shard, has a key that they take along, too, and that says when it was made:
//
//	key:    aside:probe{<tag of the shard's first slot>}:made   no braces where there is one shard
//	value:  <time, 16 digits of µs>
//
// Whoever does not find it makes it again. So if it was made, in this life of the server, after we
// have seen an earlier one, there was a flush in between, no later than that. Then what was loaded
// before it is not replayed, and a Set from before it is replayed as a delete: its key may have
// been flushed after it. That the key was evicted, or has expired, looks the same. A restart or a
// failover, which the run id shows, is no flush: what is replayed then makes good what was lost.

const flushKeySuffix = ":made"

// Flush is a flush that was noticed. Immutable.
type Flush struct {
	At   int64 // when it was, at the latest, in the server's µs
	Mark int64 // what Hooks.Flushed has returned, once it was noticed
}

// flushWatch is what is known of a shard's key. It belongs to the prober.
type flushWatch struct {
	key, run   string // which key, in which life of the server
	made       int64  // when it was made, as seen last
	connection uint64 // on which that was
	servers    uint64 // that on which it was looked whether it leads to several servers
	at         int64  // when, in Link.Now's time
}

const flushLookEvery = time.Minute // beside what gives reason to

// lookAround follows a good probe: it looks whether this is one server, and whether it was flushed.
func (l *Link) lookAround(sh *Shard) {
	if run, connection := sh.run.Load(), sh.Valid.Connection(); sh.Addr == "" && run != nil && run.id != "" && sh.watch.servers != connection && l.lookForSpread(sh) {
		sh.watch.servers = connection
	}
	if !l.mayBeFlushed(sh) {
		return
	}
	l.judgeServers(sh)
	l.lookForFlush(sh)
}

// mayBeFlushed reports whether it is time to look: on a new connection, which a flush is taken for,
// too, and before a shard comes back.
func (l *Link) mayBeFlushed(sh *Shard) bool {
	w := &sh.watch
	return w.connection != sh.Valid.Connection() || !sh.Asks() || l.Now()-w.at >= int64(flushLookEvery)
}

// lookForFlush finds out whether the database was flushed since the last look. Where that cannot be
// known it concludes nothing.
func (l *Link) lookForFlush(sh *Shard) {
	w, connection, run := &sh.watch, sh.Valid.Connection(), sh.run.Load()
	key, ok := l.flushKey(sh)
	if !ok || run == nil || run.id == "" || run.connection != connection {
		return
	}
	w.connection, w.at = connection, l.Now()
	ctx, cancel := context.WithTimeout(l.closing, l.opt.RedisTimeout)
	defer cancel()
	q := NewCall(script.Made, key, script.InMilliseconds(l.opt.FlushKeyTTL))
	send(ctx, sh.client, []*Call{q})
	text, err := q.Reply.ToString()
	made, notNumber := strconv.ParseInt(text, 10, 64)
	if q.Err != nil || err != nil || notNumber != nil {
		if _, reply := rueidis.IsRedisErr(q.Err); q.Err != nil && !reply {
			w.connection = 0 // ask again
		}
		return
	}
	if w.key == key && w.run == run.id && made > w.made {
		sh.flushed.Store(&Flush{At: made, Mark: l.up.Flushed(sh)})
	}
	w.key, w.run, w.made = key, run.id, made
}

// flushKey is sh's; false if it has no slot.
func (l *Link) flushKey(sh *Shard) (string, bool) {
	if sh.Addr == "" {
		return probeKeyPrefix + flushKeySuffix, true
	}
	ranges := sh.slots.Load()
	if ranges == nil || len(*ranges) == 0 {
		return "", false
	}
	first := (*ranges)[0].from
	for _, r := range *ranges {
		first = min(first, r.from)
	}
	return probeKeyPrefix + "{" + slot.Tag(first) + "}" + flushKeySuffix, true
}

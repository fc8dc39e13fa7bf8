package link

import (
	"slices"
	"strings"

	"github.com/redis/rueidis"
)

// invalidated is called by rueidis, in order with the replies of the connection. It must not block:
// rueidis fails the calls that are pending on a lost connection only after it returns. It returns
// those keys that are not of probes.
func (l *Link) invalidated(keys []rueidis.RedisMessage) (others []rueidis.RedisMessage) {
	if keys == nil { // a connection is lost (it is not said which), or everything was flushed
		l.counts.flushes.Add(1)
		if t := l.topo.Load(); t != nil {
			for _, sh := range t.shards {
				sh.newEpoch()
			}
		}
		l.up.Lost()
		return nil
	}
	others = keys
	for i := range keys {
		key, err := keys[i].ToString()
		switch {
		case err == nil && l.heardProbe(key):
			if len(others) == len(keys) {
				others = slices.Clone(keys[:i])
			}
			continue
		case err == nil:
			l.up.Invalidated(key)
		}
		if len(others) < len(keys) {
			others = append(others, keys[i])
		}
	}
	l.counts.invalidations.Add(int64(len(others)))
	return others
}

// heardProbe counts a push of a probe key, and reports whether key is one.
func (l *Link) heardProbe(key string) bool {
	if !strings.HasPrefix(key, probeKeyPrefix) {
		return false
	}
	if sh, ok := l.ears.Load(key); ok {
		sh.(*Shard).heard.Add(1)
		return true
	}
	l.up.Invalidated(key)                                                            // it may be somebody's all the same
	return strings.Contains(key, l.opt.ID) || strings.HasSuffix(key, flushKeySuffix) // a late one, or what tells of a flush
}

// ear is the probe key whose pushes are counted for sh; "" if there is none.
func (sh *Shard) ear() string {
	if key := sh.probeKey.Load(); key != nil {
		return *key
	}
	return ""
}

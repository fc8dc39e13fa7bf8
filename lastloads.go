package aside

import (
	"hash/maphash"
	"strings"
	"sync"
	"time"
)

// LoadExplanation is one call of a loader.
type LoadExplanation struct {
	At       time.Time // when it ended
	Took     time.Duration
	Keys     int    // how many it was asked for
	NotFound bool   // it said that there is nothing
	Err      string // what it returned, shortened; "" for none
}

// lastLoads remembers how the latest loads of keys ended, for Explain: so many that failed, and so
// many others. Keys are remembered by their hashes, and the later of two keys that share a place
// drives out the earlier. Safe for concurrent use.
type lastLoads struct {
	seed maphash.Seed // immutable

	mu     sync.Mutex
	tables [2][]lastLoad // of loads that went well, and of others; made when first needed; guarded by mu
}

// keptLoads is how many places each table has: 64 KiB.
const keptLoads = 1024

// mostErrorText is how many bytes of an error are kept.
const mostErrorText = 200

type lastLoad struct {
	hash     uint64
	at       int64 // when it ended, in link.Now's time; 0: nothing is here
	took     time.Duration
	keys     int
	notFound bool
	err      string
}

// note remembers that a load of keys has ended with err, whose methods must not panic.
func (ls *lastLoads) note(keys []string, at int64, took time.Duration, err error) {
	e := lastLoad{at: max(at, 1), took: took, keys: len(keys)}
	table := 0
	switch {
	case err == nil:
	case isNotFound(err):
		e.notFound = true
	default:
		table, e.err = 1, err.Error()
		if len(e.err) > mostErrorText {
			e.err = strings.ToValidUTF8(e.err[:mostErrorText], "") + "…"
		}
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.tables[table] == nil {
		ls.tables[table] = make([]lastLoad, keptLoads)
	}
	for _, key := range keys[:min(len(keys), keptLoads)] {
		e.hash = maphash.String(ls.seed, key)
		ls.tables[table][e.hash%keptLoads] = e
	}
}

// of returns the latest load of key that went well, and the latest that did not; nil: none is known.
// wall tells the time of day.
func (ls *lastLoads) of(key string, wall func(int64) time.Time) (well, failed *LoadExplanation) {
	hash := maphash.String(ls.seed, key)
	ls.mu.Lock()
	defer ls.mu.Unlock()
	for i, to := range []**LoadExplanation{&well, &failed} {
		if ls.tables[i] == nil {
			continue
		}
		if e := &ls.tables[i][hash%keptLoads]; e.at != 0 && e.hash == hash {
			*to = &LoadExplanation{At: wall(e.at), Took: e.took, Keys: e.keys, NotFound: e.notFound, Err: e.err}
		}
	}
	return well, failed
}

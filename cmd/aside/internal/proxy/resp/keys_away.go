package resp

import (
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"weak"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// Commands that list keys, while Redis is away, if Options.KnownKeys says so: they list the keys of which
// EXISTS would answer 1 then. There may be others in Redis, and RESP has no place beside such an answer to say so: it
// is counted, and logged.
//
// A cursor of SCAN is a place in the order of the keys' hashes, which is the same for every process. A key that is
// known from the first page to the last has its place ahead of the cursor until it is returned. Redis's
// own cursors never have bit 52, these do: so a scan that began in an outage is not gone on with in Redis,
// where it would miss keys. Clients that read numbers as JavaScript does lose nothing below bit 53.

const (
	placeBits   = 48
	awayCursor  = 1 << 52
	partQuiet   = time.Minute // between two lines of the log about answers in part
	scanDefault = 10          // COUNT
)

// placed is a key and its place in the order.
type placed struct {
	at  uint64
	key string
}

func placeOf(key string) placed {
	h := fnv.New64a()
	_, _ = h.Write([]byte(key))
	return placed{h.Sum64() >> (64 - placeBits), key}
}

// listing is the latest list of keys that something may be known of, in their order. Whoever scans on needs
// one that is not older than the beginning of his scan, which made one itself; so the latest serves all, and if
// the garbage collector has taken it, a new one does. Safe for concurrent use.
type listing struct {
	mu     sync.Mutex // held while one is made: of two, the later one must stay
	latest weak.Pointer[[]placed]
}

// of returns the list; fresh: a new one.
func (l *listing) of(store *proxy.Store, fresh bool) []placed {
	l.mu.Lock()
	defer l.mu.Unlock()
	if all := l.latest.Value(); all != nil && !fresh {
		return *all
	}
	all := new([]placed)
	for key := range store.KnownKeys() {
		*all = append(*all, placeOf(key))
	}
	slices.SortFunc(*all, func(a, b placed) int {
		if a.at != b.at {
			return int(int64(a.at) - int64(b.at))
		}
		return strings.Compare(a.key, b.key)
	})
	*all = slices.Compact(*all)
	l.latest = weak.Make(all)
	return *all
}

// listsKnown reports whether Redis is away and keys are to be listed by what is known.
func (c *conn) listsKnown() bool { return c.server.options.KnownKeys && c.server.someAway() }

// inPart takes note of an answer that may not be all, unless Redis has come back meanwhile: then what was known
// is not any more, and it answers that.
func (c *conn) inPart(command string) bool {
	s := c.server
	if !s.someAway() {
		c.error("ASIDEDEGRADED Redis has come back while its keys were listed by what this proxy has: do it again")
		return false
	}
	s.inPart.Add(1)
	now, logged := time.Now().UnixNano(), s.inPartLogged.Load()
	if (logged == 0 || now-logged >= int64(partQuiet)) && s.inPartLogged.CompareAndSwap(logged, now) {
		s.options.Logger.Warn("resp: keys are listed by what is known here, as Redis is away: there may be more", "command", command, "client", c.calls(), "answers", s.inPart.Load())
	}
	return true
}

// known calls use with those of keys that match pattern and exist by what is known here, until it returns false. kind
// is "" where that is not known.
func (c *conn) known(keys []placed, pattern string, use func(key string, kind kind) bool) error {
	return c.server.store.InTurn(c.ctx, func() error {
		s := newStage(c.server.options.MaxValueBytes)
		for _, one := range keys {
			if err := c.ctx.Err(); err != nil {
				return err
			}
			if pattern != "*" && !matches(pattern, one.key) {
				continue
			}
			s.now = time.Now()
			if err := c.learnBy(c.server.store.LookAway, s, one.key); err != nil {
				return err
			}
			e := s.entry(one.key)
			delete(s.known, one.key)
			if e.exists && !use(one.key, e.kind) {
				return nil
			}
		}
		return nil
	})
}

func (c *conn) keysKnown(pattern string) {
	var found []string
	err := c.known(c.server.listing.of(c.server.store, true), pattern, func(key string, _ kind) bool {
		found = append(found, key)
		return true
	})
	switch {
	case err != nil:
		c.fail(err)
	case c.inPart("KEYS"):
		c.strings(found)
	}
}

func (c *conn) dbsizeKnown() {
	n := int64(0)
	err := c.known(c.server.listing.of(c.server.store, true), "*", func(string, kind) bool {
		n++
		return true
	})
	switch {
	case err != nil:
		c.fail(err)
	case c.inPart("DBSIZE"):
		c.int(n)
	}
}

// randomKnown answers nothing only if Redis could: it does not know that there is none.
func (c *conn) randomKnown() {
	all := c.server.listing.of(c.server.store, true)
	from := 0
	if len(all) > 0 {
		from = rand.IntN(len(all))
	}
	found := ""
	first := func(key string, _ kind) bool {
		found = key
		return false
	}
	err := c.known(all[from:], "*", first)
	if err == nil && found == "" {
		err = c.known(all[:from], "*", first)
	}
	switch {
	case err == nil && found == "":
		c.fail(proxy.ErrDegraded)
	case err != nil:
		c.fail(err)
	case c.inPart("RANDOMKEY"):
		c.bulk(found)
	}
}

// scanAway does SCAN here, or refuses to go on in Redis with what began here. false: Redis is to be asked.
func (c *conn) scanAway(args []string) bool {
	cursor, err := strconv.ParseUint(args[0], 10, 64)
	switch {
	case c.listsKnown() && err != nil:
		c.error("ERR invalid cursor")
	case c.listsKnown():
		c.scanKnown(cursor, args[1:])
	case err == nil && cursor&awayCursor != 0 && cursor < 2*awayCursor:
		c.error("ASIDEDEGRADED this SCAN has begun while Redis was away, over what this proxy had: begin anew with cursor 0")
	default:
		return false
	}
	return true
}

// scanOptions are what stands behind SCAN's cursor.
type scanOptions struct {
	count   int64
	pattern string
	kind    string // in lower case; "": any
}

// parseScan returns what Redis says of them, if they are wrong.
func parseScan(args []string) (o scanOptions, wrong string) {
	o = scanOptions{count: scanDefault, pattern: "*"}
	for ; len(args) > 1; args = args[2:] {
		switch strings.ToUpper(args[0]) {
		case "COUNT":
			n, ok := number(args[1])
			if !ok {
				return o, notInteger
			}
			if o.count = n; n < 1 {
				return o, syntaxError
			}
		case "MATCH":
			o.pattern = args[1]
		case "TYPE":
			o.kind = strings.ToLower(args[1])
		default:
			return o, syntaxError
		}
	}
	if len(args) > 0 {
		return o, syntaxError
	}
	return o, ""
}

// scanKnown is SCAN from cursor. A cursor of Redis's own says nothing here: it is as 0.
func (c *conn) scanKnown(cursor uint64, args []string) {
	o, wrong := parseScan(args)
	if wrong != "" {
		c.error(wrong)
		return
	}
	ours := cursor&awayCursor != 0
	all := c.server.listing.of(c.server.store, !ours)
	if ours {
		from := cursor &^ awayCursor
		i, _ := slices.BinarySearchFunc(all, from, func(one placed, at uint64) int { return int(int64(one.at) - int64(at)) })
		all = all[i:]
	}
	next := "0"
	if int64(len(all)) > o.count {
		n := int(o.count)
		for n < len(all) && all[n].at == all[n-1].at { // a cursor cannot stand between them
			n++
		}
		if n < len(all) {
			next = strconv.FormatUint(all[n].at|awayCursor, 10)
		}
		all = all[:n]
	}
	var found []string
	err := c.known(all, o.pattern, func(key string, kind kind) bool {
		if o.kind == "" || o.kind == string(kind) {
			found = append(found, key)
		}
		return true
	})
	switch {
	case err != nil:
		c.fail(err)
	case c.inPart("SCAN"):
		c.array(2)
		c.bulk(next)
		c.strings(found)
	}
}

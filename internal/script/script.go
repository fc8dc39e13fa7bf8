// Package script holds the Lua that runs in Redis: one file per script, whose head says what it
// does, its KEYS and ARGV, its answer, and why a second run is harmless. The Go variable of
// read_or_lock.lua is ReadOrLock.
//
// A script may be run twice. One whose answer was lost may have run, and is sent again, or its
// operation is replayed later. Most scripts find in Redis what the first run left, and do nothing.
// The others need the window: two times of the server between which they run, and outside of which
// they refuse (lib/clock.lua). So what is late cannot undo what was written since.
//
// All scripts with k… take many keys; in a cluster, keys of one slot. Redis runs a script at once
// and whole.
//
// Which keys Redis tracks for a client decides what it pushes to it, and it tracks what a read-only
// command has read. Reading a key before it is written would make Redis push our own write back to
// us, right behind the answer, and what we filled would be gone from our memory. (The option
// NOLOOP, which is meant for that, also withholds the pushes for keys that our own commands evict:
// docs/adr/0001.) So the scripts write first where they can, and look with GETEX where they must:
// it counts as a write and leaves no trace. What we want to be told about is read at last: what was
// found (GET), what was filled (EXISTS).
//
// # How a file becomes a script
//
// A first line "-- include: clock stamps" puts lib/clock.lua and lib/stamps.lua in front, with what
// these include; each once. Lines that are comments or blank are not sent to Redis. A name in
// capitals, such as LONGEST_TTL, is a constant that Go knows; its value takes its place.
package script

import (
	"embed"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/sums"
	"github.com/redaside/aside/internal/wire"
)

// The lock on a key.
var (
	ReadOrLock     = load("read_or_lock")
	ReadOrLockMany = load("read_or_lock_many")
	ReplaceOrLock  = load("replace_or_lock")
	Read           = load("read")
	Fill           = load("fill")
	FillMany       = load("fill_many")
	Renew          = load("renew")
	Release        = load("release")
	ReleaseFailed  = load("release_failed")
)

// The refresh of a stale value.
var (
	Refresh       = load("refresh")
	Refreshed     = load("refreshed")
	RefreshFailed = load("refresh_failed")
)

// Group tells the states of groups.
var Group = load("group")

// Writes. What is called Bare leaves no stamps.
var (
	Set        = load("set")
	SetBare    = load("set_bare")
	Del        = load("del")
	DelBare    = load("del_bare")
	Touch      = load("touch")
	Expire     = load("expire")
	ExpireBare = load("expire_bare")
	Mark       = load("mark")
	Stamp      = load("stamp")
	Nothing    = load("nothing")
)

// The replay.
var (
	Replay     = load("replay")
	ReplayBare = load("replay_bare")
	Ledger     = load("ledger")
	Operate    = load("operate")
)

// What is found out about a server.
var (
	Time     = load("time")
	Probe    = load("probe")
	Who      = load("who")
	Made     = load("made")
	Withheld = load("withheld")
)

// Explain tells what Redis has of a key.
var Explain = load("explain")

// Script is a Lua script. Immutable.
type Script struct{ name, text, sha string }

// Name returns the name of its file, without the .lua.
func (s *Script) Name() string { return s.name }

// Text returns what Redis runs.
func (s *Script) Text() string { return s.text }

// SHA returns the SHA-1 by which Redis remembers the text, in hexadecimal digits.
func (s *Script) SHA() string { return s.sha }

//go:embed *.lua lib/*.lua
var files embed.FS

const includes = "-- include: "

// constants are the names that stand for values of Go.
var constants = strings.NewReplacer(
	"LONGEST_TTL", strconv.FormatInt(Milliseconds(wire.LongestTTL), 10),
	"LEAST_MARGIN", strconv.FormatInt(stamp.LeastMargin.Microseconds(), 10),
)

// Milliseconds returns d as Redis takes it: rounded up, so that what is asked to live at all does.
func Milliseconds(d time.Duration) int64 {
	ms := int64(d / time.Millisecond)
	if d%time.Millisecond != 0 {
		ms++
	}
	return ms
}

// load reads a script when the program starts. A file that is not there is a mistake in this
// package.
func load(name string) *Script {
	var text strings.Builder
	var had []string
	add(&text, name+".lua", &had)
	s := &Script{name: name, text: constants.Replace(text.String())}
	sum := sums.SHA1(s.text)
	s.sha = hex.EncodeToString(sum[:])
	loaded = append(loaded, s)
	return s
}

// loaded are all scripts. It is written while the program starts only.
var loaded []*Script

// All returns all scripts.
func All() []*Script { return slices.Clone(loaded) }

// add appends a file to text, behind what it includes, unless it is among those that text had
// already.
func add(text *strings.Builder, name string, had *[]string) {
	if slices.Contains(*had, name) {
		return
	}
	*had = append(*had, name)
	source, err := files.ReadFile(name)
	if err != nil {
		panic(fmt.Sprintf("aside: a script is missing: %v", err))
	}
	lines := strings.Split(string(source), "\n")
	if parts, ok := strings.CutPrefix(lines[0], includes); ok {
		for part := range strings.FieldsSeq(parts) {
			add(text, "lib/"+part+".lua", had)
		}
	}
	for _, line := range lines {
		if code := strings.TrimSpace(line); code != "" && !strings.HasPrefix(code, "--") {
			text.WriteString(line + "\n")
		}
	}
}

// InMilliseconds is Milliseconds as scripts and commands take it.
func InMilliseconds(d time.Duration) string { return strconv.FormatInt(Milliseconds(d), 10) }

package aside

import (
	"fmt"
	"time"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
)

// Mode says how far a shard, a primary of a cluster or the one server, can be relied upon.
//
//	         lost                      back, nothing to replay
//	Healthy ------> Degraded ------------------------------------> Healthy
//	   ^              |   ^
//	   |         back |   | lost
//	   |              v   |
//	   +--------- Recovering
//	     replayed
//
// lost: a connection is refused, or breaks and the prober's next probe fails too; five commands in
// a row are not answered (the prober's count three times: it has the connection to itself when
// nobody asks); or one is not while no proof of life is younger than StaleLease; or the server says
// that it serves nobody, or nobody who writes (LOADING, BUSY, READONLY, NOREPLICAS, MISCONF,
// CLUSTERDOWN, MASTERDOWN), or that it does not let us in or run our scripts (NOAUTH, WRONGPASS,
// NOPERM for EVALSHA, too many clients). back: three good probes in a row, each with a write, and
// then up to a second more, so that processes do not all return at once; a server that was never
// away is back with the first. replayed: Redis has answered for all that was written meanwhile.
type Mode int32

// The modes.
const (
	// Healthy: Redis answers.
	Healthy Mode = iota
	// Degraded: no caller asks Redis, only the prober does. Memory, disk and loaders answer; writes
	// are kept for replay.
	Degraded
	// Recovering: Redis answers, and what was written meanwhile is being replayed. A key whose
	// record has not been replayed yet has it replayed first by whoever asks for it.
	Recovering
)

func (m Mode) String() string { return link.Mode(m).String() }

// MarshalText implements [encoding.TextMarshaler]: a mode is its name, in JSON too.
func (m Mode) MarshalText() ([]byte, error) { return []byte(m.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (m *Mode) UnmarshalText(text []byte) error {
	for _, mode := range []Mode{Healthy, Degraded, Recovering} {
		if mode.String() == string(text) {
			*m = mode
			return nil
		}
	}
	return fmt.Errorf("%w: %s is not a mode: healthy, degraded or recovering", ErrInvalidArgument, quoted(string(text)))
}

// ModeChange is one change of a shard's mode.
type ModeChange struct {
	Shard    string // its address in a cluster, else ""
	From, To Mode
	At       time.Time
	Err      error // why it was lost; nil otherwise
}

// Health says how a Client is doing.
type Health struct {
	Mode     Mode          // the worst of its shards': Degraded, else Recovering, else Healthy; Degraded as long as Redis was never reached
	Since    time.Time     // when the shard that decides has changed to it
	Shards   []ShardHealth // sorted by address; empty as long as Redis was never reached
	Err      error         // why it is degraded, or what does not work although it is not; nil: nothing is wrong
	Durable  bool          // what Set and Del accept while Redis is away survives the end of the process
	Fallback fallback.Stats

	// UntrackedTTL is how old the local memory may be, because Redis tells of no changes: that of the
	// options, where it is in use; else 0.
	UntrackedTTL time.Duration
	Replay       Replay       // the latest replay, which may be under way
	Drill        *DrillReport // of the drill that runs, so far; nil: none does
}

// ShardHealth says how a shard is doing.
type ShardHealth struct {
	Addr  string // "" where there is one shard only
	Mode  Mode
	Since time.Time
	Err   error // why it is degraded, or what does not work although it is not
}

// Replay is one pass of replaying what a shard has missed.
type Replay struct {
	Shard     string // its address in a cluster, else ""
	Running   bool
	Done      int  // records handled so far, of Report.Total
	Restarted bool // the server is not the one that was lost: it may lack what that had acknowledged. false: it is, or nobody knows
	Report    fallback.ReplayReport
}

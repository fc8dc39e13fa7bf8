package aside

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/link"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/wire"
)

// Options configures a [Client]. The zero value is usable: a Redis at 127.0.0.1:6379 and the
// defaults below. [New] copies Options; changing it afterwards has no effect.
type Options struct {
	// Redis says how to connect: addresses, TLS, credentials, Sentinel, database. InitAddress
	// defaults to 127.0.0.1:6379; each address is a host:port, and for a url there is
	// rueidis.ParseURL.
	//
	// New sets the fields on which the protocol depends, and returns an error if they are set:
	// ClientTrackingOptions, PipelineMultiplex, RetryDelay, DisableRetry, DisableAutoPipelining,
	// BlockingPipeline, ReplicaOnly and SendToReplicas. Dialer.Timeout defaults to 250 milliseconds
	// (with TLS 1 second), Dialer.KeepAlive to 5 seconds (500 milliseconds for the connections of
	// Client.Redis), ConnWriteTimeout to 30 seconds. New's own dialer closes a connection that is
	// silent for 1.5 seconds (RedisTimeout, if that is longer), and does not take a large answer for
	// silence; a shorter ConnWriteTimeout does. RingScaleEachConn may be from 1 to 18 (0: 8): half of the ring's
	// 2^RingScaleEachConn commands may be in flight to a node at once, 512 at most.
	// ReadBufferEachConn defaults to 32 KiB, WriteBufferEachConn to 16 KiB. With DisableCache (or
	// AlwaysRESP2, which needs it) there is no local memory, and waiting callers poll.
	Redis rueidis.ClientOption

	// ClientBuilder makes the rueidis client from the option that New has completed; wrap it to add
	// tracing or metrics. It may be called several times, until it succeeds. Defaults to
	// rueidis.NewClient.
	ClientBuilder func(rueidis.ClientOption) (rueidis.Client, error)

	// ConnectTimeout is how long New waits for the first connection. After that New returns without
	// one, and goes on connecting in the background. Defaults to 1 second.
	ConnectTimeout time.Duration

	// RequireRedis makes New fail when Redis cannot be reached within ConnectTimeout. Defaults to
	// false.
	RequireRedis bool

	// RedisTimeout is how long one request to Redis may take before the call goes on without it;
	// the caller's own context may end it sooner. Defaults to 250 milliseconds.
	RedisTimeout time.Duration

	// LockTTL is how long others wait for a process that died while it was loading a key. The lock
	// of a living process is renewed after a third to half of it, however long its loader takes. It
	// must be at least twice RedisTimeout, so that a renewal can arrive. Defaults to 2 seconds.
	LockTTL time.Duration

	// LoadTimeout is the deadline of the loader's context, and the longest that callers wait for a
	// loader that ignores it. Defaults to 30 seconds.
	LoadTimeout time.Duration

	// StoreFirst makes Get and GetMulti return a loaded value only when Redis has it, or cannot
	// store it. Without it they return when the loader does, and the value is stored meanwhile. Use
	// it in serverless functions and short-lived processes, which may end or freeze without Close
	// right after a call: a key that they have locked and not filled delays others for LockTTL. Use
	// it also in tests that read keys from Redis themselves.
	StoreFirst bool

	// StaleLease bounds how long this process may serve a value from memory after another process
	// has changed it, if the network fails silently and no invalidation arrives. While Redis
	// answers and the client is used, a quarter of it (at most 200 ms) passes between two proofs
	// that no invalidation is missing. At least 20 milliseconds. Defaults to 1 second.
	StaleLease time.Duration

	// MemoryBytes bounds the local memory: keys, values, decoded values and their overhead, as
	// estimated. A decoded value counts with its own size, however small it was compressed. -1
	// switches the memory off. Defaults to 64 MiB.
	MemoryBytes int64

	// MemoryKeys, beside MemoryBytes, bounds the number of keys in the local memory, exactly: the
	// least recently used is evicted first. Each hit then takes a mutex that all callers share.
	// Defaults to 0: no such bound, and the least useful entry is evicted first.
	MemoryKeys int

	// MemoryTTL is how long an entry of the local memory is used at most. Freshness does not need
	// it, because Redis sends invalidations. Defaults to 0: until its key expires.
	MemoryTTL time.Duration

	// UntrackedTTL permits a local memory where Redis sends no invalidations: with Redis.DisableCache,
	// which AlwaysRESP2 needs, or on a service that has no CLIENT TRACKING. An entry is used for so
	// long after Redis was asked, or the value was loaded, also while Redis is away; what another
	// process changes meanwhile is served as it was. This process's own writes are seen at once.
	// Found.Untracked and Health.UntrackedTTL report it. It changes nothing where Redis does send
	// invalidations. Defaults to 0: no memory there.
	UntrackedTTL time.Duration

	// MaxKeyBytes is the longest key that is accepted. Defaults to 1 KiB.
	MaxKeyBytes int

	// MaxValueBytes is the longest encoded value that is stored. A longer loaded value is returned,
	// counted and not stored; Set of a longer one is an error. Defaults to 8 MiB.
	MaxValueBytes int

	// NegativeTTL is how long the absence of a value (a loader's ErrNotFound) is cached, or the
	// call's ttl where that is shorter. -1 does not cache it: a later call calls the loader again.
	// Defaults to 30 seconds.
	NegativeTTL time.Duration

	// ErrorTTL is how long a loader's error also answers later callers of the key in this process,
	// so that a hundred waiting callers do not each query a failing database. A Set, Del or Update
	// of the key in this process, and what another process stores there, end it sooner; a load of
	// another process that fails, too, does not. An error that a context has ended is not cached. At
	// most 16,384 errors are kept for longer than 50 milliseconds; further ones for 50. -1 caches
	// none. Defaults to 50 milliseconds.
	ErrorTTL time.Duration

	// FallbackDir is the directory that keeps what is set, deleted and loaded while Redis is away,
	// until it has been replayed. It belongs to one Client at a time (ErrLocked) and should outlive
	// the process. It is made if need be, with mode 0700. Defaults to none: such writes are kept in
	// memory, and return ErrNotDurable.
	FallbackDir string

	// Fallback says how FallbackDir is used: how a write becomes durable (Sync), how large it may
	// become (MaxBytes, also without a FallbackDir), how often the journal is turned into files.
	// New sets DB and Logger.
	Fallback fallback.Options

	// Store replaces FallbackDir by a store of your own; package storetest checks it. Close closes
	// it. Defaults to none.
	Store fallback.Store

	// DegradedTTL is how long, while Redis is away, this process serves values that were in its
	// memory when Redis went away, or that it has loaded since: it learns of no changes meanwhile.
	// A value that expires sooner is served until then; a value that this process has itself set
	// since is served until it expires. -1: all are served until they expire. Defaults to 30
	// seconds.
	DegradedTTL time.Duration

	// ReadBack makes Set, Touch and Update read what they have written into this process's memory
	// before they return: it is there for the next reader, and for DegradedTTL when Redis goes
	// away. What Redis acknowledges, and dies before it can be read, is not known in the outage. Each
	// call costs one more request. Defaults to false: a value is read when it is asked for.
	ReadBack bool

	// MaxLoaders caps concurrent loads that run without a Redis lock, while Redis is away or does
	// not answer. Further loads wait, and return ErrOverloaded after a second. A load that a
	// loader's own Get starts runs in the loader's place, one at a time. Defaults to 256.
	MaxLoaders int

	// MaxLoads caps concurrent loads of this client, whether Redis is there or not; while it is
	// away, MaxLoaders counts as well. WithMaxLoads caps those of a view. Further loads wait, and
	// return ErrOverloaded after a second; one that a loader's own Get starts runs in the loader's
	// place, as for MaxLoaders. A loader call of GetMulti counts as one. Defaults to 0: no bound.
	MaxLoads int

	// StampTTL is how long Redis keeps the stamp of a key's last Set or Del: which client wrote it,
	// and when, in some 65 bytes for a key of 20. A process that was cut off for longer replays
	// its Sets as deletes. Defaults to 1 hour.
	StampTTL time.Duration

	// DisableStamps leaves no stamps. Then a replay cannot tell whether a pending Set is newer than
	// the value in Redis, so Sets made while Redis was away are replayed as deletes. Defaults to
	// false.
	DisableStamps bool

	// ReplayRate is how many records a second are replayed at most, per shard; -1 for no limit.
	// Defaults to 5000.
	ReplayRate int

	// ReplayFills says whether values that were loaded while Redis was away are stored in Redis
	// afterwards. Defaults to ReplayFillsFenced.
	ReplayFills ReplayFills

	// OnReplay is told of the progress of replays, at most every 100 ms, and of their end, one call
	// after the other. While it is busy, steps are skipped. Defaults to none.
	OnReplay func(Replay)

	// Logger gets a line when Redis goes away and when it is back, and a warning, at most one a
	// second, for values that cannot be read or stored. No line has a value. Its handler is called
	// from one goroutine at a time, and only Close waits for it, for half a second: up to 4,096
	// lines (1 MiB) are queued, in order; further lines are dropped, and a line counts them.
	// Defaults to slog.Default().
	Logger *slog.Logger

	// Observer is told what happens, for metrics and traces. It cannot change what happens. It is
	// called on the caller's path, so it should be quick. Defaults to none.
	Observer Observer

	// HitEvents has the Observer told of each key that is answered from this process's memory, too.
	// Without it those are only counted (Stats.MemoryHits). Defaults to false.
	HitEvents bool
}

// ReplayFills says whether values that were loaded while Redis was away are stored when it is back.
type ReplayFills int

// The values of ReplayFills.
const (
	// ReplayFillsFenced stores them only if the server is the same process as before: in another
	// one, the stamps that would show that a key was deleted meanwhile may be lost.
	ReplayFillsFenced ReplayFills = iota
	// ReplayFillsAlways also stores them in a server that was restarted, or that has taken over.
	ReplayFillsAlways
	// ReplayFillsNever drops them.
	ReplayFillsNever
)

func (r ReplayFills) String() string {
	switch r {
	case ReplayFillsFenced:
		return "fenced"
	case ReplayFillsAlways:
		return "always"
	case ReplayFillsNever:
		return "never"
	default:
		return fmt.Sprintf("ReplayFills(%d)", int(r))
	}
}

const (
	defaultErrorTTL = 50 * time.Millisecond

	longestTimeout = 24 * time.Hour
	maxRingScale   = 18 // 40 MB for a connection
	maxMemoryBytes = math.MaxInt64 / 2
	maxValueBytes  = 512 << 20 // Redis's own limit for a string
)

func (o Options) withDefaults() Options {
	if len(o.Redis.InitAddress) == 0 {
		o.Redis.InitAddress = []string{defaultAddress}
	}
	if o.ClientBuilder == nil {
		o.ClientBuilder = link.NewClient
	}
	o.ConnectTimeout = cmp.Or(o.ConnectTimeout, time.Second)
	o.RedisTimeout = cmp.Or(o.RedisTimeout, 250*time.Millisecond)
	o.LockTTL = cmp.Or(o.LockTTL, 2*time.Second)
	o.LoadTimeout = cmp.Or(o.LoadTimeout, 30*time.Second)
	o.StaleLease = cmp.Or(o.StaleLease, time.Second)
	o.MemoryBytes = cmp.Or(o.MemoryBytes, 64<<20)
	o.MaxKeyBytes = cmp.Or(o.MaxKeyBytes, 1<<10)
	o.MaxValueBytes = cmp.Or(o.MaxValueBytes, 8<<20)
	o.NegativeTTL = cmp.Or(o.NegativeTTL, 30*time.Second)
	o.ErrorTTL = cmp.Or(o.ErrorTTL, defaultErrorTTL)
	o.DegradedTTL = cmp.Or(o.DegradedTTL, 30*time.Second)
	o.MaxLoaders = cmp.Or(o.MaxLoaders, 256)
	o.StampTTL = cmp.Or(o.StampTTL, time.Hour)
	o.ReplayRate = cmp.Or(o.ReplayRate, 5000)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return o
}

// validate reports every problem at once. It expects the defaults to be in place.
func (o Options) validate() error {
	var errs []error
	bad := func(field string, value any, remedy string) {
		errs = append(errs, fmt.Errorf("aside: Options.%s is %v: %s", field, value, remedy))
	}
	for _, address := range o.Redis.InitAddress {
		if why := badAddress(address, o.Redis.DialFn != nil || o.Redis.DialCtxFn != nil); why != "" {
			bad("Redis.InitAddress", fmt.Sprintf("[%q]", withoutSecrets(address)), why)
		}
	}
	for _, d := range []struct {
		field string
		value time.Duration
		most  time.Duration
		none  string // what -1 means, if it may be
	}{
		{"ConnectTimeout", o.ConnectTimeout, longestTimeout, ""}, {"RedisTimeout", o.RedisTimeout, longestTimeout, ""},
		{"LockTTL", o.LockTTL, longestTimeout, ""}, {"LoadTimeout", o.LoadTimeout, longestTimeout, ""}, {"StaleLease", o.StaleLease, longestTimeout, ""},
		{"StampTTL", o.StampTTL, LongestTTL, ""}, {"MemoryTTL", o.MemoryTTL, LongestTTL, ""}, {"UntrackedTTL", o.UntrackedTTL, LongestTTL, ""},
		{"NegativeTTL", o.NegativeTTL, LongestTTL, "to remember no absence"}, {"ErrorTTL", o.ErrorTTL, longestTimeout, "to remember no error"},
		{"DegradedTTL", o.DegradedTTL, LongestTTL, "to serve until a value expires"},
	} {
		switch {
		case d.value == -1 && d.none != "":
		case d.value < 0 && d.field == "MemoryTTL":
			bad(d.field, d.value, "must be positive, or 0 for no bound; MemoryBytes: -1 switches the memory off")
		case d.value < 0 && d.field == "UntrackedTTL":
			bad(d.field, d.value, "must be positive, or 0 for no memory where Redis sends no invalidations")
		case d.value < 0 && d.none != "":
			bad(d.field, d.value, "must be positive, 0 for the default, or -1 "+d.none)
		case d.value < 0:
			bad(d.field, d.value, "must be positive, or 0 for the default")
		case d.value > 0 && d.value < leastTTL && d.field != "DegradedTTL": // where the least of all is a way to say none
			bad(d.field, d.value, fmt.Sprintf("must be at least %v; a bare number counts nanoseconds, write %d*time.Second for seconds", leastTTL, d.value))
		case d.value > d.most:
			bad(d.field, d.value, fmt.Sprintf("must be at most %v", d.most))
		}
	}
	if o.LockTTL > 0 && o.LockTTL < 2*o.RedisTimeout {
		bad("LockTTL", o.LockTTL, fmt.Sprintf("must be at least twice RedisTimeout (%v), or a renewal comes too late", o.RedisTimeout))
	}
	if o.StaleLease > 0 && o.StaleLease < 20*time.Millisecond {
		bad("StaleLease", o.StaleLease, "must be at least 20ms; MemoryBytes: -1 serves nothing from memory")
	}
	if o.MemoryBytes != -1 && (o.MemoryBytes < 0 || o.MemoryBytes > maxMemoryBytes) {
		bad("MemoryBytes", o.MemoryBytes, "must be positive, 0 for the default, or -1 for no memory")
	}
	if o.MemoryKeys < 0 || o.MemoryKeys > math.MaxInt32 {
		bad("MemoryKeys", o.MemoryKeys, "must be positive, or 0 for no bound; MemoryBytes: -1 switches the memory off")
	}
	if o.MaxLoaders < 0 || o.MaxLoaders > math.MaxInt32 {
		bad("MaxLoaders", o.MaxLoaders, fmt.Sprintf("must be positive and at most %d, or 0 for the default", math.MaxInt32))
	}
	if o.MaxLoads < 0 || o.MaxLoads > math.MaxInt32 {
		bad("MaxLoads", o.MaxLoads, fmt.Sprintf("must be positive and at most %d, or 0 for no bound", math.MaxInt32))
	}
	if o.ReplayRate < -1 || o.ReplayRate > math.MaxInt32 {
		bad("ReplayRate", o.ReplayRate, "must be positive, 0 for the default, or -1 for no limit")
	}
	if o.ReplayFills < ReplayFillsFenced || o.ReplayFills > ReplayFillsNever {
		bad("ReplayFills", o.ReplayFills, "must be ReplayFillsFenced, ReplayFillsAlways or ReplayFillsNever")
	}
	if o.Store != nil && o.FallbackDir != "" {
		bad("Store", "set", fmt.Sprintf("leave it out, or FallbackDir (%q)", o.FallbackDir))
	}
	if o.MaxKeyBytes < 0 || o.MaxKeyBytes > maxValueBytes {
		bad("MaxKeyBytes", o.MaxKeyBytes, "must be positive and at most 512 MiB, or 0 for the default")
	}
	if o.MaxValueBytes < 0 || o.MaxValueBytes > maxValueBytes {
		bad("MaxValueBytes", o.MaxValueBytes, "must be positive and at most 512 MiB, or 0 for the default")
	}
	if o.Redis.RingScaleEachConn < 0 || o.Redis.RingScaleEachConn > maxRingScale {
		bad("Redis.RingScaleEachConn", o.Redis.RingScaleEachConn, fmt.Sprintf("must be from 1 to %d, or 0 for 8", maxRingScale))
	}
	errs = append(errs, validateRedis(o.Redis)...)
	return errors.Join(append(errs, o.Fallback.Validate())...)
}

// openStore opens what the options say.
func (o Options) openStore() (fallback.Store, error) {
	switch {
	case o.Store != nil:
		return o.Store, nil
	case o.FallbackDir == "":
		return fallback.NewMemory(o.Fallback.MaxBytes), nil
	}
	f := o.Fallback
	f.DB, f.Logger = o.Redis.SelectDB, o.Logger
	store, err := fallback.Open(o.FallbackDir, f)
	if err != nil {
		return nil, fmt.Errorf("aside: Options.FallbackDir: %w", reason.Of(err))
	}
	return store, nil
}

// validateRedis refuses the fields that New sets itself, and says what each would break.
func validateRedis(r rueidis.ClientOption) (errs []error) {
	own := func(set bool, field, why string) {
		if set {
			errs = append(errs, fmt.Errorf("aside: Options.Redis.%s is set: leave it unset, %s", field, why))
		}
	}
	own(len(r.ClientTrackingOptions) > 0, "ClientTrackingOptions", "New chooses how keys are tracked")
	own(r.PipelineMultiplex > 0, "PipelineMultiplex", "invalidations are in order on one connection per node only")
	own(r.RetryDelay != nil, "RetryDelay", "a call must not wait for a server that is gone")
	own(r.DisableRetry, "DisableRetry", "it would hand one caller's context error to another")
	own(r.DisableAutoPipelining, "DisableAutoPipelining", "invalidations are in order on one connection per node only")
	own(r.BlockingPipeline != 0, "BlockingPipeline", "a large batch must stay on the connection whose invalidations we hear")
	own(r.ReplicaOnly, "ReplicaOnly", "locks and fills are written")
	own(r.SendToReplicas != nil, "SendToReplicas", "locks and fills are written, and a replica may lag behind them")
	if r.AlwaysRESP2 && !r.DisableCache {
		errs = append(errs, errors.New("aside: Options.Redis.AlwaysRESP2 is set without DisableCache: RESP2 has no pushed invalidations; set DisableCache too (no local memory, waiters poll)"))
	}
	return errs
}

// LongestTTL is the longest ttl, 100 years: a value that is stored for longer does not expire.
const LongestTTL = wire.LongestTTL

// leastTTL is the shortest that Redis knows. What is shorter is a number that was meant to be one
// of seconds.
const leastTTL = time.Millisecond

// tooShort is the error of a duration that a caller gave, nil if it is one that can be.
func tooShort(what string, d time.Duration, remedy string) error {
	switch {
	case d <= 0:
		return fmt.Errorf("%w: %s is %v: %s", ErrInvalidArgument, what, d, remedy)
	case d < leastTTL:
		return fmt.Errorf("%w: %s is %v: must be at least %v; a bare number counts nanoseconds, write %d*time.Second for seconds", ErrInvalidArgument, what, d, leastTTL, d)
	}
	return nil
}

// Package proxy is what `aside serve` serves: strings under keys, from an aside.Client, to the HTTP
// and the RESP front end.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/reason"
	"github.com/redaside/aside/internal/wire"
)

// NoExpiry is the TTL of a value that does not expire.
const NoExpiry time.Duration = -1

// LongestTTL is the longest ttl: a value with a longer one does not expire.
const LongestTTL = aside.LongestTTL

// ErrDegraded means that Redis is away, and that the Store cannot answer without it: Redis may have
// the key.
var ErrDegraded = errors.New("Redis is away, and what this proxy has does not answer this")

// ErrConcurrency means that the caller has waited for its turn (service.concurrency) until its
// context ended.
var ErrConcurrency = errors.New("too many requests are being served")

// ErrReserved means that a key is one of the library's own, which clients neither read nor write.
var ErrReserved = errors.New("keys that begin with " + ownPrefix + " are the proxy's own: choose another")

// ownPrefix begins all keys that the library keeps beside the data: stamps, and what its probes ask
// for.
const ownPrefix = "aside:"

// Reserved reports whether key is one of the library's own.
func Reserved(key string) bool { return strings.HasPrefix(key, ownPrefix) }

// MayName reports whether a pattern, whose first "*" stands for what Redis reads from a key, may
// name one of the library's own keys.
func MayName(pattern string) bool {
	before, _, _ := strings.Cut(pattern, "*")
	return Reserved(before) || strings.Contains(pattern, "*") && strings.HasPrefix(ownPrefix, before)
}

// allowed returns ErrReserved if one of keys is.
func allowed(keys ...string) error {
	if slices.ContainsFunc(keys, Reserved) {
		return ErrReserved
	}
	return nil
}

// Value is the value of a key.
type Value struct {
	Data        string
	ContentType string        // as it was put by HTTP; "" if it was not
	TTL         time.Duration // left, or to be given; NoExpiry if there is none; negative, where Stale, since when
	Stale       bool          // only grace is left of it; the web front end says so
	Source      aside.Source  // SourceMemory, SourceRedis or SourceDisk; not for Set
	At          time.Time     // when Redis said so, or it was set or loaded here; not for Set
}

// Store is what both front ends serve. Safe for concurrent use.
type Store struct {
	client      *aside.Client
	turns       Gate
	order       *order                // of writes that are kept while Redis is away
	whole       *order                // of those that are of several keys and are seen as one: they are alone, readers beside each other. Taken after order
	strict      func(key string) bool // nil: no key is
	misses      atomic.Int64
	refused     atomic.Int64
	receiving   *Budget
	connections *Budget
}

// NewStore returns a Store from client, which stays the caller's to close. concurrency is how many
// calls are served at once; 0 for no limit, 1 for one after the other.
func NewStore(client *aside.Client, concurrency int) *Store {
	return &Store{client: client, turns: NewGate(concurrency), order: newOrder(), whole: newOrder(), receiving: NewBudget(ReceivingBytes), connections: NewBudget(connectionsOf(openFiles()))}
}

// Client is the client that the Store is made of, for its Health and Stats.
func (s *Store) Client() *aside.Client { return s.client }

// ReceivingBytes is what all requests that are being received may hold in sum, beyond FreeBytes
// each, unless LimitReceiving says otherwise.
const ReceivingBytes = 256 << 20

// LimitReceiving makes limit what Receiving allows. It must be called before the Store is served.
func (s *Store) LimitReceiving(limit int64) { s.receiving = NewBudget(limit) }

// Receiving is the Budget of bytes for requests that are being received, or have been and are being
// served, of both front ends.
func (s *Store) Receiving() *Budget { return s.receiving }

// Connections is the Budget of clients' connections of both front ends: as many as may be open, but
// for what Redis, the journal and the log need. Each connection takes 1 while it is open.
func (s *Store) Connections() *Budget { return s.connections }

// reserved is how many open files are not for clients.
const reserved = 64

// connectionsOf is how many clients a process that may have so many files open can have; 0 for no
// limit.
func connectionsOf(files int64) int64 { return files - min(reserved, files/2) }

// Misses is how many keys Get and GetMulti were asked for that held nothing.
func (s *Store) Misses() int64 { return s.misses.Load() }

// Refused is how many calls had an error because Redis is away, or because the fallback directory
// is full or fails.
func (s *Store) Refused() int64 { return s.refused.Load() }

// noted counts err, if it is one that Refused is about, and returns it.
func (s *Store) noted(err error) error {
	if err == nil {
		return nil
	}
	for _, outage := range []error{ErrDegraded, aside.ErrRedisAway, aside.ErrNotDurable, aside.ErrFull, aside.ErrDisk} {
		if errors.Is(err, outage) {
			s.refused.Add(1)
			break
		}
	}
	return err
}

// enter waits until one more call may be served. Without an error the caller must leave the turns.
func (s *Store) enter(ctx context.Context) error {
	if err := s.turns.Enter(ctx); err != nil {
		return fmt.Errorf("%w: %w", ErrConcurrency, err)
	}
	return nil
}

// Get returns what key holds. The error is aside.ErrNotFound if it holds nothing, ErrDegraded if
// that cannot be known, ErrReserved, or ctx's.
func (s *Store) Get(ctx context.Context, key string) (Value, error) {
	if err := allowed(key); err != nil {
		return Value{}, err
	}
	if s.IsStrict(key) {
		return s.GetFromRedis(ctx, key)
	}
	if err := s.enter(ctx); err != nil {
		return Value{}, err
	}
	defer s.turns.Leave()
	if s.Away(key) {
		defer s.beside(key)()
	}
	return s.get(ctx, key)
}

// get is Get of a key that is allowed and not strict, for who has entered.
func (s *Store) get(ctx context.Context, key string) (Value, error) {
	found, err := s.client.Look(ctx, key)
	if errors.Is(err, aside.ErrNotFound) {
		s.misses.Add(1)
	}
	if err != nil {
		return Value{}, s.noted(degraded(err))
	}
	return valueOf(found), nil
}

// GetFromRedis is Get that asks Redis, whatever memory has: nothing older than the call is returned.
func (s *Store) GetFromRedis(ctx context.Context, key string) (Value, error) {
	if err := allowed(key); err != nil {
		return Value{}, err
	}
	if err := s.enter(ctx); err != nil {
		return Value{}, err
	}
	defer s.turns.Leave()
	return s.getFromRedis(ctx, key)
}

func (s *Store) getFromRedis(ctx context.Context, key string) (Value, error) {
	found, err := s.client.Fetch(ctx, time.Hour, key, noLoader, aside.WithoutLoad(), aside.WithFresh())
	switch {
	case errors.Is(err, aside.ErrNotCached):
		s.misses.Add(1)
		return Value{}, fmt.Errorf("%w: %w", aside.ErrNotFound, err)
	case err != nil:
		return Value{}, s.noted(degraded(err))
	}
	if found.Degraded {
		return Value{}, s.noted(ErrDegraded)
	}
	return fetched(found), nil
}

// noLoader is for calls that load nothing.
func noLoader(context.Context, string) (string, error) { return "", aside.ErrNotFound }

func valueOf(found aside.Found) Value {
	v := open(found.Value)
	v.TTL, v.Source, v.At = left(found.TTL), found.Source, found.At
	return v
}

// GetMulti returns what keys hold; those that hold nothing are left out. It fails as a whole if one
// of them cannot be answered.
func (s *Store) GetMulti(ctx context.Context, keys []string) (map[string]Value, error) {
	if err := allowed(keys...); err != nil {
		return nil, err
	}
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.turns.Leave()
	if s.IsStrict(keys...) {
		return s.getMultiFromRedis(ctx, keys)
	}
	if slices.ContainsFunc(keys, s.Away) {
		defer s.beside(keys...)()
	}
	found, err := s.client.LookMulti(ctx, keys)
	if err != nil {
		return nil, s.noted(degraded(err))
	}
	values := make(map[string]Value, len(found))
	for key, f := range found {
		values[key] = valueOf(f)
	}
	for _, key := range keys {
		if _, ok := values[key]; !ok {
			s.misses.Add(1)
		}
	}
	return values, nil
}

// Set stores v.Data, with v.ContentType, under key for v.TTL, or without end for NoExpiry. nil
// means that Redis has it, or that it is on disk and will be replayed. Errors are those of
// aside.Client.Set, and ErrReserved; of Do for a strict key.
func (s *Store) Set(ctx context.Context, key string, v Value) error {
	if err := allowed(key); err != nil {
		return err
	}
	if s.IsStrict(key) {
		return s.setInRedis(ctx, key, v)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	s.order.beside(key)
	defer s.order.end(key)
	ttl := v.TTL
	if ttl == NoExpiry {
		ttl = wire.Endless
	}
	return s.noted(s.client.Set(ctx, ttl, key, seal(v.Data, v.ContentType)))
}

// Del removes keys. nil means the same as for Set.
func (s *Store) Del(ctx context.Context, keys ...string) error {
	if err := allowed(keys...); err != nil {
		return err
	}
	if s.IsStrict(keys...) {
		return s.delInRedis(ctx, keys)
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	s.order.beside(keys...)
	defer s.order.end(keys...)
	return s.noted(s.client.Del(ctx, keys...))
}

// Command is one of Redis's own: Name, then Key, then Args.
type Command struct {
	Name []string // more than one word for EVAL, whose script and number of keys stand before the key
	Key  string
	Args []string

	// Changed reports, by the reply, whether the key was changed. nil: it always is.
	Changed func(reply rueidis.RedisMessage) bool
}

// Do sends Redis a command that writes its key: EXPIRE, INCR, SET with NX. Writes of the key that
// wait for Redis are replayed first, and its entry in memory is dropped. A nil reply is no error.
// The error is ErrDegraded where Redis is away, Redis's own (a *rueidis.RedisError), or
// aside.ErrUnknownOutcome if there was no answer.
func (s *Store) Do(ctx context.Context, command Command) (rueidis.RedisMessage, error) {
	if err := allowed(command.Key); err != nil {
		return rueidis.RedisMessage{}, err
	}
	return s.run(ctx, []string{command.Key}, func(ctx context.Context, redis rueidis.Client) (rueidis.RedisMessage, error) {
		reply, err := redis.Do(ctx, redis.B().Arbitrary(command.Name...).Keys(command.Key).Args(command.Args...).Build()).ToMessage()
		if (err == nil || rueidis.IsRedisNil(err)) && command.Changed != nil && !command.Changed(reply) {
			err = aside.ErrUnchanged
		}
		return reply, err
	})
}

// Ask sends Redis a command that only reads, on keys of one slot; none for SCAN. Errors are those
// of Do, but a missing answer is ErrDegraded.
func (s *Store) Ask(ctx context.Context, name string, keys []string, args ...string) (rueidis.RedisMessage, error) {
	if err := allowed(keys...); err != nil {
		return rueidis.RedisMessage{}, err
	}
	reply, err := s.run(ctx, nil, func(ctx context.Context, redis rueidis.Client) (rueidis.RedisMessage, error) {
		return redis.Do(ctx, redis.B().Arbitrary(name).Keys(keys...).Args(args...).Build()).ToMessage()
	})
	if errors.Is(err, aside.ErrUnknownOutcome) {
		err = fmt.Errorf("%w: %w", ErrDegraded, reason.Of(err))
	}
	return reply, err
}

func (s *Store) run(ctx context.Context, keys []string, fn func(ctx context.Context, redis rueidis.Client) (rueidis.RedisMessage, error)) (rueidis.RedisMessage, error) {
	if err := s.enter(ctx); err != nil {
		return rueidis.RedisMessage{}, err
	}
	defer s.turns.Leave()
	var reply rueidis.RedisMessage
	err := s.client.Update(ctx, keys, func(ctx context.Context, redis rueidis.Client) (err error) {
		reply, err = fn(ctx, redis)
		return err
	})
	if rueidis.IsRedisNil(err) {
		err = nil
	}
	return reply, s.noted(degraded(err))
}

// Passing is what a call of Pass does.
type Passing struct {
	Writes []string // the keys that it may change
	Reads  []string // those that it only reads
	Stamps bool     // it leaves stamps of its writes, unless fn returns aside.ErrUnchanged
}

// Pass calls fn, which sends Redis commands of a client's as they are, by a connection of its own.
// Writes of its keys that wait for Redis are replayed first. What memory holds of what it writes is
// dropped before Pass returns, so that whoever reads then sees what fn has done. Errors are fn's, and
// ErrDegraded where Redis is away, which is found out before fn is called.
//
// Update does all this; while Redis is well and nothing waits for it, there is less to do, and many
// commands to do it for.
func (s *Store) Pass(ctx context.Context, p Passing, fn func() error) error {
	if err := allowed(p.Writes...); err != nil {
		return err
	}
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.turns.Leave()
	if h := s.client.Health(); !p.Stamps && (h.Mode == aside.Healthy && h.Fallback.Pending() == 0 || len(h.Shards) > 1 && s.readsWell(ctx, p)) {
		defer s.client.Forget(p.Writes...)
		if err := fn(); !errors.Is(err, aside.ErrUnchanged) {
			return s.noted(err)
		}
		return nil
	}
	keys := append(slices.Clip(p.Writes), p.Reads...)
	err := s.client.Update(ctx, keys, func(context.Context, rueidis.Client) error {
		if err := fn(); err != nil || p.Stamps {
			return err
		}
		return aside.ErrUnchanged
	})
	return s.noted(degraded(err))
}

// readsWell reports whether p only reads, keys for which nothing waits and whose shards are there. That others of the cluster are away is no matter to
// it. An Update of these keys would drop what memory has of them.
func (s *Store) readsWell(ctx context.Context, p Passing) bool {
	return len(p.Writes) == 0 && len(p.Reads) > 0 && !slices.ContainsFunc(p.Reads, func(key string) bool {
		if s.client.Away(key) {
			return true
		}
		kept, operations, err := s.client.Kept(ctx, key)
		return err != nil || operations || kept.Base != aside.BaseUnknown
	})
}

// Hear waits until memory has heard of all that Redis has done before: what is pushed comes in order
// with replies, so it asks for a key that nobody has. A Redis that does not answer is away, and then
// memory is not what it was anyway.
//
// In a cluster each node tells of its own keys: tags are hash tags of slots of those that are asked.
func (s *Store) Hear(ctx context.Context, tags ...string) {
	if len(tags) == 0 {
		_, _ = s.client.Look(ctx, ownPrefix+"heard")
		return
	}
	keys := make([]string, len(tags))
	for i, tag := range tags {
		keys[i] = ownPrefix + "heard{" + tag + "}"
	}
	_, _ = s.client.LookMulti(ctx, keys)
}

// Open reads a value that a command of Redis's own has returned; false if it is a lock or a cached
// absence.
func (s *Store) Open(stored string) (Value, bool) {
	value, _, what := wire.Unpack(stored)
	return open(value), what == wire.Value
}

// Pack returns the argument by which a command of Redis's own stores a value.
func (s *Store) Pack(data string) string { return wire.Pack(seal(data, "")) }

func degraded(err error) error {
	if errors.Is(err, aside.ErrRedisAway) && !errors.Is(err, aside.ErrNotDurable) && !errors.Is(err, aside.ErrFull) && !errors.Is(err, aside.ErrDisk) {
		return fmt.Errorf("%w: %w", ErrDegraded, reason.Of(err))
	}
	return err
}

func left(ttl time.Duration) time.Duration {
	if ttl < 0 || ttl > LongestTTL {
		return NoExpiry
	}
	return ttl
}

// envelope stands before a value that has a content type, and before one that begins like that:
// envelope, type, newline, value.
const envelope = "\x01aside-http:"

func seal(data, contentType string) string {
	if contentType == "" && !strings.HasPrefix(data, envelope) {
		return data
	}
	return envelope + strings.ReplaceAll(contentType, "\n", " ") + "\n" + data
}

func open(stored string) Value {
	if rest, ok := strings.CutPrefix(stored, envelope); ok {
		if contentType, data, ok := strings.Cut(rest, "\n"); ok {
			return Value{Data: data, ContentType: contentType}
		}
	}
	return Value{Data: stored}
}

package link

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/reason"
)

// Lend has fn ask shards with commands of its own, and draws the consequences of what they have
// answered. It returns what fn has, unless that is an error of Redis which says that it could not
// be asked, or whose outcome is unknown.
func (l *Link) Lend(ctx context.Context, shards []*Shard, fn func(ctx context.Context, redis rueidis.Client) error) error {
	limit, limited, cancel := boundedContext(ctx, l.opt.RedisTimeout)
	defer cancel()
	passed := shards[0].traffic.passed.Load()
	entered := 0
	defer func() {
		for _, sh := range shards[:entered] {
			sh.gate.leave()
		}
	}()
	for _, sh := range shards {
		if !sh.Asks() {
			return ErrNotAsked
		}
		if err := sh.gate.enter(limit); err != nil {
			return fmt.Errorf("%w: %w", errGateFull, reason.Of(err))
		}
		entered++
	}
	asked := l.Now()
	said := &answers{}
	var err error
	if failed := l.up.Contain("the function given to Update", func() {
		err = fn(limit, &guardedClient{&askedClient{&l.lateClient, said}})
		err = l.up.Examine(err)
	}); failed != nil {
		err = failed
	}
	errs, ok := said.all()
	if len(shards) == 1 {
		var calls []*Call
		for _, e := range errs {
			if judge(e, limited) != moved && !elsewhere(e, shards[0].Addr) {
				calls = append(calls, &Call{Err: e})
			}
		}
		if ok {
			shards[0].failing.Store(0)
		}
		l.conclude(shards[0], calls, attempt{limited, asked, passed})
	}
	if err == nil || rueidis.IsRedisNil(err) {
		return err
	}
	from := origin(err, errs)
	if from == nil {
		return err // fn's own
	}
	_, reply := replyOf(from)
	switch {
	case judge(from, limited) == answered:
		return err
	case reply, neverSent(from):
		return fmt.Errorf("%w: %w", ErrRedisAway, reason.Of(err))
	}
	return fmt.Errorf("%w: %w", ErrUnknownOutcome, reason.Of(err))
}

// ShardsOf returns the shards of keys, each once; all of them for no keys; none while Redis has not
// been reached.
func (l *Link) ShardsOf(keys []string) (shards []*Shard) {
	t := l.topo.Load()
	if t == nil {
		return nil
	}
	if len(keys) == 0 {
		return t.shards
	}
	for _, key := range keys {
		if sh := t.shardOf(key); !slices.Contains(shards, sh) {
			shards = append(shards, sh)
		}
	}
	return shards
}

// elsewhere reports whether an error is of a connection to another address: of a node of a cluster
// that fn has asked by mistake, or was redirected to.
func elsewhere(err error, addr string) bool {
	var of *net.OpError
	return addr != "" && errors.As(err, &of) && of.Addr != nil && of.Addr.String() != addr
}

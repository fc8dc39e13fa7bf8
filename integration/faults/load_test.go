package faults_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redaside/aside"
)

// load is many callers that call, think, and call again: of twenty calls eighteen are Gets of any
// key, one is a Set and one a Del of a key of the caller's own. Each call has 100 ms. The callers
// sleep between calls, so that the machine is not the bottleneck, and note how late they are woken:
// what a call takes is the sum of what it waits for and of that.
type load struct {
	truth   *truth
	client  *aside.Client
	think   time.Duration // on average
	stopped atomic.Bool
	callers sync.WaitGroup
	samples [][]sample // by caller
}

// sample is one call.
type sample struct {
	began, took time.Duration // since truth.began
	overslept   time.Duration // how late the caller was woken before it
	write       bool
	outcome     outcome
}

func (s sample) ended() time.Duration { return s.began + s.took }

type outcome uint8

const (
	answered outcome = iota
	deadline         // the call's own
	unknown          // a write that was sent and not answered, kept for replay and not acknowledged
	refused          // what Redis has refused and the row expects
	overload         // ErrOverloaded
	broken           // anything else: a failure of the test
)

const callTimeout = 100 * time.Millisecond

// start begins the load. allowed says which other errors the row expects of writes.
func (tr *truth) start(c *aside.Client, callers int, think time.Duration, allowed func(error) bool) *load {
	l := &load{truth: tr, client: c, think: think, samples: make([][]sample, callers)}
	for i := range callers {
		l.callers.Go(func() { l.call(i, allowed) }) // ends with stop
	}
	return l
}

// stop ends the load and returns its calls, by their begin.
func (l *load) stop() []sample {
	l.stopped.Store(true)
	l.callers.Wait()
	all := slices.Concat(l.samples...)
	slices.SortFunc(all, func(a, b sample) int { return int(a.began - b.began) })
	return all
}

func (l *load) call(number int, allowed func(error) bool) {
	random := rand.New(rand.NewPCG(uint64(number), 42))
	var own []*fact
	for i := number; i < len(l.truth.keys); i += len(l.samples) {
		own = append(own, l.truth.keys[i])
	}
	samples := make([]sample, 0, 256)
	defer func() { l.samples[number] = samples }()
	for !l.stopped.Load() {
		pause := l.think/2 + rand.N(l.think)
		slept := time.Now()
		time.Sleep(pause)
		overslept := time.Since(slept) - pause

		dice := random.IntN(20)
		f := l.truth.keys[random.IntN(len(l.truth.keys))]
		if dice < 2 {
			f = own[random.IntN(len(own))]
		}
		began := l.truth.now()
		ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
		var err error
		if dice < 2 {
			err = f.write(ctx, l.client, dice == 0)
		} else {
			err = f.get(ctx, l.client)
		}
		took := l.truth.now() - began
		late := ctx.Err() != nil
		cancel()
		s := sample{began: began, took: took, overslept: overslept, write: dice < 2}
		switch {
		case err == nil:
		case late || endedByContext(err):
			s.outcome = deadline
		case dice < 2 && errors.Is(err, aside.ErrUnknownOutcome):
			s.outcome = unknown
		case dice < 2 && allowed != nil && allowed(err):
			s.outcome = refused
		case errors.Is(err, aside.ErrOverloaded):
			s.outcome = overload
		default:
			s.outcome = broken
			l.truth.problem("%s of %s: %v", map[bool]string{true: "a write", false: "a Get"}[s.write], f.name, err)
		}
		samples = append(samples, s)
	}
}

// bystanders are callers in another process, that is on another client, who only read.
type bystanders struct {
	stopped atomic.Bool
	callers sync.WaitGroup
}

func (tr *truth) watch(c *aside.Client, callers int, lease time.Duration) *bystanders {
	b := &bystanders{}
	for range callers {
		b.callers.Go(func() { // ends with stop
			for !b.stopped.Load() {
				time.Sleep(rand.N(20 * time.Millisecond))
				ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
				err := tr.keys[rand.IntN(len(tr.keys))].getElsewhere(ctx, c, lease)
				cancel()
				if err != nil && !endedByContext(err) && !errors.Is(err, aside.ErrOverloaded) {
					tr.problem("a Get of the other process: %v", err)
				}
			}
		})
	}
	return b
}

func (b *bystanders) stop() {
	b.stopped.Store(true)
	b.callers.Wait()
}

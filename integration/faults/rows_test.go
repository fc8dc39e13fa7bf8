package faults_test

import (
	"fmt"
	"strings"
	"time"

	"github.com/redaside/aside/internal/redistest"
)

// row is a fault: how it is made, how it ends, and what is to be expected of it.
type row struct {
	name string
	what string // for people

	build   func(*world) // the servers
	prepare func(*world) // under load, some time before the fault; nil: nothing
	inject  func(*world) // begins the fault
	heal    func(*world) // ends it; returns when the server answers again

	callers  int           // 0: usualCallers
	lasts    time.Duration // from inject to heal
	onlyFull bool          // left out of the short form

	noticed noticed
	silent  bool             // nothing answers, nothing refuses: a call waits for its own deadline until it is noticed
	refuses bool             // connections are refused or broken at once
	loses   bool             // the server loses data
	allowed func(error) bool // other errors that writes may return; nil: none
}

// noticed is whether a fault is to make the client degraded.
type noticed int

const (
	perhaps noticed = iota // it may be over before
	always
	underLoad // but perhaps not by a client that nobody uses
	never
)

const (
	usualCallers = 200
	manyCallers  = 3000
)

func rows() []*row {
	usual, long := 1200*time.Millisecond, 3*time.Second
	return []*row{
		{
			name: "none", what: "no fault, for comparison", build: single(true), noticed: never, lasts: usual,
			inject: func(*world) {}, heal: func(*world) {},
		}, {
			name: "none, 3,000 callers", what: "no fault, for comparison", build: single(true), noticed: never, lasts: usual, callers: manyCallers,
			inject: func(*world) {}, heal: func(*world) {},
		}, {
			name: "refused", what: "the port is closed and its connections are reset", build: single(true), noticed: always, refuses: true, lasts: usual,
			inject: func(w *world) { w.proxy.Refuse() },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "killed", what: "kill -9; started again, empty", build: single(false), noticed: always, refuses: true, loses: true, lasts: usual,
			inject: func(w *world) { w.kill() },
			heal:   func(w *world) { w.server.Restart() },
		}, {
			name: "killed, older data", what: "kill -9; started again with the RDB of half a second before", build: single(false), noticed: always, refuses: true, loses: true, lasts: usual,
			prepare: func(w *world) {
				w.server.Do("SAVE")
				copyFile(w.t, dataFile(w.server)+".older", dataFile(w.server))
			},
			inject: func(w *world) {
				file := dataFile(w.server)
				w.server.Kill() // it saves, too
				w.undo = append(w.undo, func() { copyFile(w.t, file, file+".older") })
			},
			heal: func(w *world) {
				w.undo[0]()
				w.server.RestartKeepingData()
			},
		}, {
			name: "frozen 0.2 s", what: "SIGSTOP, SIGCONT", build: single(true), noticed: perhaps, silent: true, callers: manyCallers, lasts: 200 * time.Millisecond,
			inject: freeze, heal: thaw,
		}, {
			name: "frozen 3 s", what: "SIGSTOP, SIGCONT", build: single(true), noticed: always, silent: true, callers: manyCallers, lasts: long,
			inject: freeze, heal: thaw,
		}, {
			name: "frozen 20 s", what: "SIGSTOP, SIGCONT", build: single(true), noticed: always, silent: true, callers: manyCallers, lasts: 20 * time.Second, onlyFull: true,
			inject: freeze, heal: thaw,
		}, {
			name: "black hole", what: "connections stay open, no byte passes; what was sent arrives later", build: single(true), noticed: always, silent: true, callers: manyCallers, lasts: usual,
			inject: func(w *world) { w.proxy.BlackHole() },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "requests cut", what: "only replies and pushes pass; what was sent arrives later", build: single(true), noticed: always, silent: true, lasts: usual,
			inject: func(w *world) { w.proxy.CutRequests() },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "replies cut", what: "only requests pass, and are carried out; the replies arrive later", build: single(true), noticed: always, silent: true, lasts: usual,
			inject: func(w *world) { w.proxy.CutReplies() },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "reset mid-reply", what: "once, after 3 bytes of a reply", build: single(true), noticed: perhaps, refuses: true, lasts: usual / 2,
			inject: func(w *world) { w.proxy.ResetAfter(3) },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "reset, again and again", what: "connections after 3 bytes of their replies, as often as they are made", build: single(true), noticed: underLoad, refuses: true, lasts: usual,
			inject: func(w *world) {
				stop, stopped := make(chan struct{}), make(chan struct{})
				w.undo = append(w.undo, func() { close(stop); <-stopped })
				w.proxy.ResetAfter(3)
				go func() { // ends with heal
					defer close(stopped)
					for {
						select {
						case <-stop:
							return
						case <-time.After(time.Millisecond):
							w.proxy.ResetAfter(3)
						}
					}
				}()
			},
			heal: func(w *world) { w.undo[0](); w.proxy.Heal() },
		}, {
			name: "slow, 10 ms", what: "every byte 5 ms later, both ways", build: single(true), noticed: perhaps, lasts: usual,
			inject: func(w *world) { w.proxy.Delay(5 * time.Millisecond) },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "slow, 200 ms", what: "every byte 100 ms later, both ways: later than a call's deadline", build: single(true), noticed: always, silent: true, lasts: usual,
			inject: func(w *world) { w.proxy.Delay(100 * time.Millisecond) },
			heal:   func(w *world) { w.proxy.Heal() },
		}, {
			name: "LOADING", what: "DEBUG RELOAD with key-load-delay: it answers LOADING to everything", build: loadable, noticed: always, refuses: true, lasts: usual,
			inject: func(w *world) {
				w.server.Do("CONFIG", "SET", "key-load-delay", "2000") // µs
				done := make(chan error, 1)
				w.undo = append(w.undo, func() {
					w.server.Do("CONFIG", "SET", "key-load-delay", "0")
					if err := <-done; err != nil {
						w.t.Errorf("DEBUG RELOAD: %v", err)
					}
				})
				go func() { // ends with heal
					_, err := w.server.TryDo("DEBUG", "RELOAD")
					done <- err
				}()
			},
			heal: func(w *world) { w.undo[0]() },
		}, {
			name: "read-only replica", what: "REPLICAOF a server that there is not; REPLICAOF NO ONE", build: single(true), noticed: underLoad, refuses: true, lasts: usual,
			inject: func(w *world) { w.server.Do("REPLICAOF", "127.0.0.1", "1") },
			heal:   func(w *world) { w.server.Do("REPLICAOF", "NO", "ONE") },
		}, {
			name: "full", what: "maxmemory 1, noeviction: it refuses Sets", build: single(true), noticed: never, lasts: usual,
			inject:  func(w *world) { w.server.Do("CONFIG", "SET", "maxmemory", "1") },
			heal:    func(w *world) { w.server.Do("CONFIG", "SET", "maxmemory", "0") },
			allowed: func(err error) bool { return strings.Contains(err.Error(), "OOM") },
		}, {
			name: "failover", what: "the primary is killed with -9, Sentinel makes a replica the next one", build: watched, noticed: always, refuses: true, loses: true, lasts: 0,
			inject: func(w *world) { w.kill() },
			heal: func(w *world) {
				w.sentinel.AwaitFailover(w.server)
				w.server = w.sentinel.Primary()
			},
		}, {
			name: "cluster, one dead", what: "one of three primaries is killed with -9; started again, empty", build: clustered(), noticed: always, refuses: true, loses: true, lasts: usual,
			inject: func(w *world) { w.kill() },
			heal:   func(w *world) { w.server.Restart(); w.awaitAnswer() },
		}, {
			name: "cluster, one cut off", what: "one of three primaries is frozen with SIGSTOP; SIGCONT", build: clustered(), noticed: always, silent: true, lasts: long,
			inject: freeze,
			heal:   func(w *world) { w.server.Thaw(); w.awaitAnswer() },
		}, {
			name: "cluster, one replaced", what: "one of three primaries is killed with -9, its replica takes over", build: clustered(redistest.WithReplicas(1)), noticed: always, refuses: true, loses: true, lasts: 0, onlyFull: true,
			inject: func(w *world) { w.kill() },
			heal: func(w *world) {
				w.server = w.cluster.Node(deadNode + 3) // its replica
				w.awaitAnswer()
			},
		},
	}
}

// loadable is a server that takes its time to load its data.
func loadable(w *world) {
	single(true, "--loading-process-events-interval-bytes", "1024")(w)
	w.server.Do("DEBUG", "POPULATE", 3000, "filler", 100)
}

func freeze(w *world) { w.server.Freeze() }
func thaw(w *world)   { w.server.Thaw() }

func (r *row) number() int {
	if r.callers == 0 {
		return usualCallers
	}
	return r.callers
}

func (r *row) String() string { return fmt.Sprintf("%s (%s)", r.name, r.what) }

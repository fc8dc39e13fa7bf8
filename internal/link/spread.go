package link

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/internal/script"
)

// What stands between may lead to several servers at once. Two kinds can be noticed by the run ids:
//
//	spread     a proxy sends each command to the server of its first key. A script of many keys then
//	           sees those of one server only, and pushes come from the server of the probe key at
//	           best. So scripts have one key each, and memory is not used.
//	in turn    an address leads to two primaries that know nothing of each other, now to one, now to
//	           the other. What is written to one is not known to clients of the other, which nobody
//	           can mend. It is said, and memory is not used.

const (
	// spreadKeys are asked for on a new connection: two servers that share them evenly are taken
	// for one once in 32,768 times.
	spreadKeys = 16

	turnsFor = 10 * time.Minute // after which the address counts as steady again
)

const flawServers flaw = "servers"

var (
	errSpread = errors.New("commands are spread over several servers by their first key: scripts are run for one key at a time, the local memory is not used, and writes of two keys are not in order; connect to one Redis, or to a Redis Cluster")
	errTurns  = errors.New("the address leads to two primaries in turn that know nothing of each other: the local memory is not used, and what is written to one is missing at the other; lead it to one of them (docs/OPERATIONS.md, What may stand between)")
)

// lookForSpread finds out, on a new connection, whether scripts go to several servers. Where it
// cannot be known it concludes nothing. false: there was no answer, so it is to be asked again.
func (l *Link) lookForSpread(sh *Shard) (done bool) {
	ctx, cancel := context.WithTimeout(l.closing, l.opt.RedisTimeout)
	defer cancel()
	commands := make([]rueidis.Completed, spreadKeys)
	for i := range commands {
		commands[i] = NewCall(script.Who, probeKeyPrefix+":"+strconv.Itoa(i)).command(sh.client.B(), true)
	}
	seen := make(map[string]bool)
	for _, answer := range sh.client.DoMulti(ctx, commands...) {
		info, err := answer.ToString()
		id := infoField(info, "run_id")
		if err != nil || id == "" {
			_, reply := replyOf(err)
			return err == nil || reply
		}
		seen[id] = true
	}
	sh.spread.Store(len(seen) > 1)
	return true
}

// judgeServers says what has been found, or takes it back.
func (l *Link) judgeServers(sh *Shard) {
	turned := sh.turned.Load()
	switch {
	case sh.spread.Load():
		l.flawed(sh, flawServers, errSpread)
	case turned != 0 && l.Now()-turned < int64(turnsFor):
		l.flawed(sh, flawServers, errTurns)
	default:
		sh.turned.Store(0)
		l.flawed(sh, flawServers, nil)
	}
	if sh.several() && sh.Valid.Deafen() { // what was read is given up, and callers that wait for a push ask again
		sh.beginEpoch()
		l.up.Woken()
	}
}

// several reports whether more than one server answers, at once or in turn.
func (sh *Shard) several() bool { return sh.spread.Load() || sh.turned.Load() != 0 }

// inTurns notes which primaries have answered. One that was left for another, and is a primary of
// the same history when it comes back, has been one all the while: what a failover makes a replica
// begins a history of its own when it becomes a primary again.
func (sh *Shard) inTurns(run *runID, now int64) {
	sh.state.mu.Lock()
	defer sh.state.mu.Unlock()
	if sh.histories == nil {
		sh.histories = make(map[string]string)
	}
	if was, ok := sh.histories[run.id]; ok && was != "" && was == run.history {
		sh.turned.Store(max(now, 1))
	}
	if len(sh.histories) > 64 {
		clear(sh.histories)
	}
	sh.histories[run.id] = run.history
}

// Package storetest is the contract of [fallback.Store] as a test suite. Run it over a store of
// your own:
//
//	func TestMyStore(t *testing.T) {
//		storetest.Run(t, func(t *testing.T) (fallback.Store, func() fallback.Store) {
//			place := t.TempDir()
//			open := func() fallback.Store { return openMyStore(t, place) }
//			return open(), open
//		})
//	}
//
// Every failure says which rule was broken and what goes wrong in an outage where it is. Run it
// with the race detector too.
package storetest

import (
	"testing"

	"github.com/redaside/aside/fallback"
)

// Open returns a new, empty store, and what opens it again on the same place after it was closed;
// nil if it forgets with its process. The suite closes what it opens.
type Open func(t *testing.T) (s fallback.Store, reopen func() fallback.Store)

// Run checks that the stores of open keep the rules of [fallback.Store], each in a subtest of its
// own and with a store of its own. It takes a second or two, mostly waiting for disks.
func Run(t *testing.T, open Open) {
	t.Helper()
	for _, rule := range rules() {
		t.Run(rule.name, func(t *testing.T) {
			if err := rule.verify(t, open); err != nil {
				t.Errorf("%v\n\nThe rule: %s.\nWhy: %s", err, rule.name, rule.why)
			}
		})
	}
}

// rule is one rule of the contract.
type rule struct {
	name  string             // what holds
	why   string             // what goes wrong in an outage where it does not
	check func(*trial) error // nil if it holds
}

// rules are in the order in which a store should be repaired.
func rules() []rule {
	return []rule{
		{
			"what Put has accepted is what Get returns",
			"Whoever writes while Redis is away reads it from here, and Redis gets it from here: any byte of it, and the time of its end.",
			roundTrip,
		},
		{
			"of two explicit records the one with the greater stamp stays, in whatever order they come",
			"Writers overtake one another on their way here. If the order of arrival decided, the older of two writes could win, and a value " +
				"would come back that was deleted.",
			greaterStampStays,
		},
		{
			"a fill never replaces an explicit record, and is always replaced by one",
			"A load that began before a Set may end after it. What it has loaded is out of date, whatever its stamp says.",
			fillsGiveWay,
		},
		{
			"of two fills the one with the greater stamp stays",
			"A slow load must not replace what a later one has found.",
			laterFillStays,
		},
		{
			"Pending is true of explicit records only, and Stamp tells of all",
			"A pending key is replayed before it is read. A fill that looks pending costs each reader a round trip; a Set that does not is " +
				"not seen by the one who wrote it.",
			pendingAndStamp,
		},
		{
			"Records yields every record with its op once",
			"What it leaves out is never replayed.",
			recordsYieldsAll,
		},
		{
			"Records may be left early, and the store used meanwhile",
			"A replay breaks off when Redis goes away again, and settles records while it goes through them.",
			recordsLetsOthersIn,
		},
		{
			"Settle forgets a record with just that stamp",
			"Redis has answered for the record that it was given. A newer one that came meanwhile must stay.",
			settleIsExact,
		},
		{
			"what was settled may be written again",
			"There is a next outage.",
			writtenAgain,
		},
		{
			"Latest is the greatest stamp that was ever seen",
			"A client that starts again makes stamps greater than this, or its new writes would lose against its old ones.",
			latest,
		},
		{
			"an expired fill is gone, an expired set is not",
			"An expired value must not be served. But that a Set has superseded what Redis holds is still to be told to Redis.",
			expiry,
		},
		{
			"Put of what cannot be replayed is an error, and nothing is remembered of it",
			"A value without an end would stay in Redis for ever; one without a stamp could not be ordered.",
			refusals,
		},
		{
			"Put returns the error of a context that has ended",
			"The caller has a deadline, and a disk may hang.",
			endedContext,
		},
		{
			"a Keeper adds operations to those of their list, and keeps them behind a Set or Del",
			"Operations that replaced each other would be lost; those that come twice would be done twice.",
			operations,
		},
		{
			"a Transactor keeps all records of a PutAll or none",
			"Of a transaction that was acknowledged in part nobody would know which part.",
			transaction,
		},
		{
			"Stats counts what is there",
			"It is what people look at when they ask whether an outage is over.",
			stats,
		},
		{
			"concurrent use ends as use one by one would",
			"One store serves all goroutines of the process.",
			concurrent,
		},
		{
			"after Close nothing is accepted or returned, and Close may be called again",
			"Whoever still writes must learn that it is not kept.",
			closing,
		},
		{
			"a store that says it is durable has after Close and opening again all that was pending",
			"The process that wrote it may be gone when Redis is back.",
			durable,
		},
		{
			"what was superseded does not come back by opening again",
			"A delete whose key's older value comes back was no delete.",
			supersededStaysAway,
		},
	}
}

package ledger

import "time"

// rule names the rules, so that a test can leave one out and see what comes of it.
type rule uint32

const (
	listIsBegun           rule = 1 << iota // step 1: a list is begun in the ledger; without it an entry that is not there is one of which nothing was done
	openingIsNoted                         // step 2: that a list was begun is noted before it is done
	entryIsOfTheList                       // an entry is a list's; without it it is a client's, and nobody begins it
	lostIsRejected                         // a list whose entry is lost is not begun once more
	answerSettles                          // a record without an answer stays
	setComesLast                           // a Set or Del that is older than the operations that are there does not come before them
	beginHasWindow                         // step 1 is not done late
	writeHasWindow                         // a Set or Del is not done late
	recordIsReadAgain                      // a replay goes by the record as it is once the key is claimed
	lateSetIsKeptAgain                     // a Set or Del that comes to the store behind later operations is kept as of then
	underWayCounts                         // also where those are on their way
	passedIsKeptAgain                      // and where they have left already
	openedIsNotAddedTo                     // additions are not put together with what may have been done
	doneAndNotedAtOnce                     // what is done stands in the ledger in the same step
	laterSetDrops                          // an operation is not done where a later Set or Del is there
	marginCounts                           // within the error of the clocks none is later
	unansweredIsWaitedFor                  // what comes after a step without an answer waits until the server does not do that any more
	eachIsBeforeOrAfter                    // of a list's operations those from before a flush are left out, not all or none
	numbersCount                           // what a process begins once it has noticed a flush is behind that, whatever the clocks say
	journalOutlivesFlush                   // the journal goes when the files have what was in it, and not before
)

func (r rule) has(one rule) bool { return r&one != 0 }

// Mutant is the rule without a part.
type Mutant struct {
	Name   string
	Config Config
	Sees   func(Counts) int // in how many trials what the part is there for goes wrong
	Within int              // trials of seed 1 in which it does
}

// Mutants returns them all.
func Mutants() []Mutant {
	const e = 50 * time.Millisecond
	twice := func(n Counts) int { return n.Twice }
	lost := func(n Counts) int { return n.Lost }
	undone := func(n Counts) int { return n.Undone }
	with := func(r rule, mix string, forgets bool) Config {
		return Config{Mix: mix, ClockError: e, Without: r, Forgets: forgets}
	}
	return []Mutant{
		{"step 1", with(listIsBegun, "ledgers", true), twice, 1000},
		{"step 2", with(openingIsNoted, "ledgers", true), twice, 1000},
		{"lists, but a number per client", with(entryIsOfTheList, "ledgers", true), twice, 1000},
		{"rejecting what is lost", with(lostIsRejected, "ledgers", true), twice, 1000},
		{"waiting for the answer", with(answerSettles, "usual", false), lost, 500},
		{"putting a Set behind the list", with(setComesLast, "files", false), undone, 18_000},
		{"the window of step 1", with(beginHasWindow, "ledgers", true), twice, 3000},
		{"the window of Set and Del", with(writeHasWindow, "writes", false), undone, 500},
		{"reading the record again", with(recordIsReadAgain, "ledgers", true), twice, 1000},
		{"keeping a late Set again", with(lateSetIsKeptAgain, "writes", false), lost, 500},
		{"keeping again what was overtaken", with(passedIsKeptAgain, "puts", false), lost, 11_000},
		{"looking at what was or is on its way", with(underWayCounts|passedIsKeptAgain, "puts", false), lost, 3000},
		{"keeping additions apart once opened", with(openedIsNotAddedTo, "usual", false), twice, 5000},
		{"noting in the same step", with(doneAndNotedAtOnce, "usual", false), twice, 500},
		{"dropping for a later Set", with(laterSetDrops, "writes", false), undone, 500},
		{"the margin of clocks", with(marginCounts, "writes", false), lost, 500},
		{"waiting where a step had no answer", with(unansweredIsWaitedFor, "ends", true), twice, 6000},
		{"judging each operation by its own time", with(eachIsBeforeOrAfter, "flushes", false), undone, 1000},
		{"what comes behind the notice of a flush", with(numbersCount, "flushes", false), lost, 1000},
		{"keeping the journal until files have it", with(journalOutlivesFlush, "kills", false), lost, 500},
	}
}

package near

import (
	"sync"
	"sync/atomic"
)

// Validity is what one server (a shard of a cluster) has shown of itself: whether what was read
// from it, or loaded for it, may be served from memory. Each entry points to the Validity of its
// server, so one change here invalidates all entries of that server at once, at no cost for each of
// them.
//
// An entry that was read from Redis is served while the connection on which it was read still
// stands (its epoch), and a proof of that connection is young enough (the lease). While the server
// is degraded it is served without a lease, until a time that Degrade is told, if its epoch is the
// last that was proven. An entry that was loaded or set in an outage is served in that outage only:
// between two anybody may have deleted the key unheard.
//
// Safe for concurrent use. Whoever watches the server calls the methods that change it; readers of
// entries load the fields they need, one by one and without a lock. That is sound because each
// method stores what withdraws before what permits: a reader that meets a change halfway sees an
// entry as it was before, or as invalid.
type Validity struct {
	tracked bool // the server was asked to tell us of changes; immutable

	lease           atomic.Int64  // until when entries of epoch may be served, in the memory's time
	epoch           atomic.Uint64 // the connection; grows
	degraded        atomic.Bool   // nobody asks the server: it is away
	outage          atomic.Uint64 // how many outages there were, this one included; grows also when they are invalidated
	proven          atomic.Uint64 // the latest epoch that was proven
	unverifiedUntil atomic.Int64  // while degraded: how long entries of epoch proven may be served
	deaf            atomic.Bool   // no changes are told, or that cannot be proven
	latest          atomic.Int64  // until when the latest proof held; 0: there was none
	wanted          atomic.Bool   // see Wanted; the one field that readers change

	forgotten uint64 // epochs that began on the connection of the one before; guarded by mu

	mu sync.Mutex // held by whatever changes the fields above, so that no two changes mix; never while calling out
}

// NewValidity returns the Validity of a server of which nothing is known yet: degraded, in its
// first outage, with nothing to serve. tracked: the server was asked to tell us of changes.
func NewValidity(tracked bool) *Validity {
	v := &Validity{tracked: tracked}
	v.epoch.Store(1)
	v.outage.Store(1)
	v.degraded.Store(true)
	return v
}

// newUntracked returns a Validity whose entries are always served: only time ends them.
func newUntracked() *Validity {
	v := NewValidity(false)
	v.lease.Store(never)
	v.degraded.Store(false)
	return v
}

// NewEpoch notes that a connection is lost, or that there is a new one: changes may have been
// missed in between. What was read so far is not served until the server is back, and what is read
// from now on only once Prove has been called for the new epoch. If the server turns out to be
// away, what the last proven connection said is served again, for as long as Degrade permits.
func (v *Validity) NewEpoch() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newEpochLocked()
}

// Forget begins an epoch on the connection that stands, if epoch is still the present one: nobody
// knows whether all changes of what was read in it were told.
func (v *Validity) Forget(epoch uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if epoch == v.epoch.Load() {
		v.newEpochLocked()
		v.forgotten++
	}
}

// Connection is the number of the present connection, which may have several epochs, see Forget.
func (v *Validity) Connection() uint64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.epoch.Load() - v.forgotten
}

func (v *Validity) newEpochLocked() {
	v.epoch.Add(1)
	v.lease.Store(0)
}

// Prove notes that every change that concerns epoch had been told when a probe on that connection
// was sent, so that its entries may be served until the given time. It does nothing if epoch is not
// the present one any more, while nothing is heard (see Deafen), and after Retire: then the proof
// is about what has been given up since.
func (v *Validity) Prove(epoch uint64, until int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if epoch != v.epoch.Load() || v.deaf.Load() || v.proven.Load() == never {
		return
	}
	v.proven.Store(epoch)
	v.lease.Store(until)
	v.latest.Store(until)
}

// Deafen notes that changes are not told, or that this cannot be proven. What was read since they
// were, nobody knows since when they are not, is given up, also for an outage; nothing is stored
// until Hear. It reports whether that is new.
func (v *Validity) Deafen() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.deaf.Swap(true) {
		return false
	}
	v.giveUpLocked()
	return true
}

// Hear notes that changes are told again, and reports whether they were not before. Then an epoch
// begins: what was asked for meanwhile was not tracked, and must not be stored.
func (v *Validity) Hear() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.deaf.Load() {
		return false
	}
	v.newEpochLocked()
	v.deaf.Store(false)
	return true
}

// Degrade notes that the server is away. An outage begins, which nothing that was loaded in an
// earlier one outlives. What the last proven connection said may be served until the given time.
func (v *Validity) Degrade(until int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.outage.Add(1)
	v.unverifiedUntil.Store(until)
	v.degraded.Store(true)
}

// Restore notes that the server may be asked again. What was loaded while it was away is not served
// any more, as the server tells of no changes of it; what was read on a connection that still
// stands is, within its lease.
func (v *Validity) Restore() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.degraded.Store(false)
}

// InvalidateAll gives up all that was read from the server, and all that was loaded for it in an
// outage: some of its keys have another server now, whose changes are told elsewhere.
func (v *Validity) InvalidateAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.giveUpLocked()
	v.outage.Add(1)
}

// giveUpLocked gives up all that was read, also for an outage.
func (v *Validity) giveUpLocked() {
	v.newEpochLocked()
	v.proven.Store(v.epoch.Load())
}

// Retire is InvalidateAll for a server that has left for good: no later proof counts.
func (v *Validity) Retire() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newEpochLocked()
	v.proven.Store(never)
	v.outage.Add(1)
	v.degraded.Store(true)
}

// ServesRead reports whether an entry that was read in epoch may be served now.
func (v *Validity) ServesRead(epoch uint64, now int64) bool {
	lease := v.lease.Load() // before the epoch: it is 0 before the next epoch has one
	if epoch == v.epoch.Load() {
		if !v.wanted.Load() {
			v.wanted.Store(true)
		}
		if now < lease {
			return true
		}
	}
	return v.degraded.Load() && epoch >= v.proven.Load() && now < v.unverifiedUntil.Load()
}

// Wanted reports whether an entry of the present connection was asked for since it was last called,
// be it with a lease or without: whether it is worth while to prove the lease.
func (v *Validity) Wanted() bool { return v.wanted.Load() && v.wanted.Swap(false) }

// ServesAway reports whether an entry that was loaded or set in that outage may be served.
func (v *Validity) ServesAway(outage uint64) bool {
	return v.degraded.Load() && outage == v.outage.Load()
}

// Epoch is the number of the present connection, or of a part of its life, see Forget.
func (v *Validity) Epoch() uint64 { return v.epoch.Load() }

// Outage is the number of the present outage, or of the latest.
func (v *Validity) Outage() uint64 { return v.outage.Load() }

// Lease is until when entries of the present epoch may be served.
func (v *Validity) Lease() int64 { return v.lease.Load() }

// LatestProof is until when the latest proof was good, of whichever epoch, also once a connection is
// lost or the server is away; 0: there was none.
func (v *Validity) LatestProof() int64 { return v.latest.Load() }

// Tracked reports whether the server was asked to tell us of changes.
func (v *Validity) Tracked() bool { return v.tracked }

// Pushes reports whether changes are told to us, as far as is known.
func (v *Validity) Pushes() bool { return v.tracked && !v.deaf.Load() }

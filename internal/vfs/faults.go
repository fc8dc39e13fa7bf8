package vfs

import (
	"io/fs"
	"slices"
	"syscall"
)

// Call is a kind of call that changes something, or several of them.
type Call uint

// The calls that change something. A CallCreate is an OpenFile with O_CREATE, whether or not the
// file was there.
const (
	CallCreate Call = 1 << iota
	CallWrite
	CallSync
	CallRename
	CallRemove
	CallMkdir
	CallTruncate
	CallSyncDir
)

// Fault is how a call fails: without effect, with two exceptions. A Write that fails with ENOSPC
// has written half, and a Sync throws away what it was to make durable (see [Mem]).
type Fault struct {
	Err    error // wrapped in an fs.PathError
	On     Call  // the calls that count and fail. Defaults to all
	Sticky bool  // all later ones fail, too, until Heal
}

// Faults that disks have.
var (
	FaultIO      = Fault{Err: syscall.EIO}
	FaultNoSpace = Fault{Err: syscall.ENOSPC}
)

// armed is a fault that is to come, or is there.
type armed struct {
	Fault
	in int // so many calls from now; 1: the next
}

// faultError tells what we were told to say from what a call has itself found wrong.
type faultError struct{ error }

func (e *faultError) Unwrap() error { return e.error }

// Calls says how many calls have changed something so far, or tried to.
func (m *Mem) Calls() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls
}

// FailAt makes the nth changing call from now fail, where 1 is the next; of those that f.On names,
// if it does. Several faults may be under way.
func (m *Mem) FailAt(n int, f Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.On == 0 {
		f.On = ^Call(0)
	}
	m.faults = append(m.faults, &armed{f, n})
}

// Heal ends all faults, also those to come. It does not wake the machine after CutAt.
func (m *Mem) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = nil
}

// CutAt stops the machine before the nth changing call from now, where 1 is the next: it and every
// call after it fails with ErrStopped and has no effect. Then Crash or Kill says what is there.
func (m *Mem) CutAt(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = m.calls + n
}

// Hang makes calls of Write, Sync and SyncDir wait until Unhang, Crash or Kill.
func (m *Mem) Hang() { m.hang(true) }

// Unhang lets those go on that wait.
func (m *Mem) Unhang() { m.hang(false) }

// AwaitHung returns when a call hangs.
func (m *Mem) AwaitHung() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.waiting == 0 && !m.stopped {
		m.freed.Wait()
	}
}

func (m *Mem) hang(hung bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hung = hung
	m.freed.Broadcast()
}

func (m *Mem) hangLocked() {
	if !m.hung || m.stopped {
		return
	}
	m.waiting++
	m.freed.Broadcast()
	for m.hung && !m.stopped {
		m.freed.Wait()
	}
	m.waiting--
}

// beginLocked is called by every call first, and reports whether it may be done. A call of 0
// changes nothing.
func (m *Mem) beginLocked(op, name string, call Call) error {
	if _, err := local(op, name); err != nil {
		return err
	}
	if call != 0 && !m.stopped {
		if m.calls++; m.calls == m.cut {
			m.stopLocked()
		}
	}
	if m.stopped {
		return &fs.PathError{Op: op, Path: name, Err: ErrStopped}
	}
	if call == 0 {
		return nil
	}
	var failed error
	m.faults = slices.DeleteFunc(m.faults, func(f *armed) bool {
		if f.On&call == 0 {
			return false
		}
		if f.in--; f.in > 0 {
			return false
		}
		if failed == nil {
			failed = &faultError{&fs.PathError{Op: op, Path: name, Err: f.Err}}
		}
		return !f.Sticky
	})
	return failed
}

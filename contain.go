package aside

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"
	"strconv"
)

// The user's code runs where it can do anything: panic, end its goroutine (runtime.Goexit, t.FailNow), return an error whose methods panic, as those
// of a nil pointer in an error do, or call us again, Close too. Where we hold something, or are in a goroutine of ours, it runs contained.

// contained calls fn in a goroutine of its own and waits for it. The error is a *PanicError, or says that fn, which is called what, has ended its goroutine.
func (lc *lifecycle) contained(what string, fn func()) error {
	done := make(chan error, 1)
	go func() { // ends with fn
		defer lc.callback()()
		returned := false
		defer func() {
			switch p := recover(); {
			case returned:
				done <- nil
			case p != nil:
				done <- newPanicError(p)
			default:
				done <- goexited(what)
			}
		}()
		fn()
		returned = true
	}()
	return <-done
}

// goexited is what becomes of a call whose callback has ended its goroutine.
func goexited(what string) error {
	return fmt.Errorf("aside: %s ended its goroutine (runtime.Goexit) instead of returning", what)
}

// examine calls what anybody may call of an error: Is, As, Unwrap, Error. It panics if these do, so it must be called where that is caught; afterwards
// the error may be handed on.
func examine(err error) (notFound bool) {
	if err == nil {
		return false
	}
	notFound = isNotFound(err)
	_ = ofContext(err)
	readAll(err)
	return notFound
}

// readAll calls Error of err and of all that it wraps: fmt.Errorf hides the panic of what it wraps from its own.
func readAll(err error) {
	_ = err.Error()
	switch wraps := err.(type) { //nolint:errorlint // as package errors does
	case *PanicError: // examined when it was made
	case interface{ Unwrap() error }:
		if inner := wraps.Unwrap(); inner != nil {
			readAll(inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wraps.Unwrap() {
			if inner != nil {
				readAll(inner)
			}
		}
	}
}

// examined returns err, or a *PanicError in its place if it cannot be examined.
func examined(err error) (same error) {
	defer func() {
		if p := recover(); p != nil {
			same = newPanicError(p)
		}
	}()
	examine(err)
	return err
}

// isNotFound reports whether a loader said that there is nothing. One that panics with ErrNotFound does not say so.
func isNotFound(err error) bool {
	if _, panicked := errors.AsType[*PanicError](err); panicked {
		return false
	}
	return errors.Is(err, ErrNotFound)
}

// callback notes that this goroutine runs a callback, until the returned function is called: Close must not wait for it there.
func (lc *lifecycle) callback() (over func()) {
	id := goroutine()
	lc.callbacks.Store(id, nil)
	return func() { lc.callbacks.Delete(id) }
}

// inCallback reports whether the caller is called by a callback, in its goroutine.
func (lc *lifecycle) inCallback() bool {
	_, ok := lc.callbacks.Load(goroutine())
	return ok
}

// goroutine is the number of this goroutine, as a stack trace has it; 0 should that change its form: then Close waits in vain for a callback that calls it.
func goroutine() int64 {
	var room [64]byte
	trace := room[:runtime.Stack(room[:], false)]
	trace, _ = bytes.CutPrefix(trace, []byte("goroutine "))
	number, _, _ := bytes.Cut(trace, []byte(" "))
	id, _ := strconv.ParseInt(string(number), 10, 64)
	return id
}

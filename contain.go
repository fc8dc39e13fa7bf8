package aside

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/redaside/aside/internal/reason"
)

// The user's code runs where it can do anything: panic, end its goroutine (runtime.Goexit,
// t.FailNow), return an error whose methods panic, as those of a nil pointer in an error do, or
// call us again, Close too. Where we hold something, or are in a goroutine of ours, it runs
// contained.

// goexited is what becomes of a call whose callback has ended its goroutine.
func goexited(what string) error {
	return fmt.Errorf("aside: %s ended its goroutine (runtime.Goexit) instead of returning", what)
}

// examine calls what anybody may call of an error: Is, As, Unwrap, Error. It panics if these do, so
// it must be called where that is caught; afterwards the error may be handed on.
func examine(err error) (notFound bool) {
	if err == nil {
		return false
	}
	notFound = isNotFound(err)
	_ = ofContext(err)
	readAll(err)
	return notFound
}

// readAll calls Error of err and of all that it wraps: fmt.Errorf hides the panic of what it wraps
// from its own.
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

// isNotFound reports whether a loader said that there is nothing. One that panics with ErrNotFound
// does not say so.
func isNotFound(err error) bool {
	if _, panicked := errors.AsType[*PanicError](err); panicked {
		return false
	}
	return errors.Is(err, ErrNotFound)
}

// PanicError is the error of all waiting callers when the loader panicked, or when a method of its
// error did (those of a nil pointer may). The lock is released and the process lives. A panic in a
// codec or in the function of an Update is a PanicError, too.
type PanicError struct {
	Value any    // what was passed to panic
	Stack []byte // the stack at that moment

	opaque bool // Value is an error that must not be looked into: its methods panic
}

func newPanicError(p any) (e *PanicError) {
	e = &PanicError{Value: p, Stack: debug.Stack()}
	if err, ok := p.(error); ok {
		defer func() {
			if recover() != nil {
				e.opaque = true
			}
		}()
		examine(err)
	}
	return e
}

func (e *PanicError) Error() string {
	value := e.Value
	if err, ok := value.(error); ok && !e.opaque { // fmt catches the panics of the others
		value = reason.Of(err)
	}
	return fmt.Sprintf("aside: the loader panicked: %v", value)
}

// Unwrap returns the panic's value where it is an error.
func (e *PanicError) Unwrap() error {
	if e.opaque {
		return nil
	}
	err, _ := e.Value.(error)
	return err
}

// ofContext reports whether an error of a loader says that a context has ended.
func ofContext(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

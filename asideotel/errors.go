package asideotel

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"
	"go.opentelemetry.io/otel/attribute"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"

	"github.com/redaside/aside"
)

// errorTypes are the values of error.type, first match first. An error's text is never used: it has
// keys in it.
var errorTypes = []struct {
	is   error
	name string
}{
	{aside.ErrNotCached, "not_cached"},
	{aside.ErrOverloaded, "overloaded"},
	{aside.ErrLockLost, "lock_lost"},
	{aside.ErrLoadTimeout, "load_timeout"},
	{aside.ErrRecursiveLoad, "recursive_load"},
	{aside.ErrTooLarge, "too_large"},
	{aside.ErrInvalidArgument, "invalid_argument"},
	{aside.ErrClosed, "closed"},
	{aside.ErrFull, "full"},
	{aside.ErrDisk, "disk"},
	{aside.ErrNotDurable, "not_durable"},
	{aside.ErrUnknownOutcome, "unknown_outcome"},
	{aside.ErrRedisAway, "redis_away"},
	{context.Canceled, "canceled"},
	{context.DeadlineExceeded, "deadline_exceeded"},
}

// errorType says what kind of error it is, as error.type: nothing for none, or where there is just no
// value.
func errorType(err error) []attribute.KeyValue {
	if name := errorName(err); name != "" {
		return []attribute.KeyValue{semconv.ErrorTypeKey.String(name)}
	}
	return nil
}

func errorName(err error) string {
	if err == nil {
		return ""
	}
	if _, ok := errors.AsType[*aside.PanicError](err); ok {
		return "panic"
	}
	if errors.Is(err, aside.ErrNotFound) {
		return ""
	}
	if batch, ok := errors.AsType[*aside.BatchError](err); ok {
		name := ""
		for _, one := range batch.Failed { // they are mostly of one kind
			switch other := errorName(one); {
			case name == "":
				name = other
			case other != "" && other != name:
				return "batch"
			}
		}
		return name
	}
	for _, of := range errorTypes {
		if errors.Is(err, of.is) {
			return of.name
		}
	}
	if reply, ok := errors.AsType[*rueidis.RedisError](err); ok {
		code, _, _ := strings.Cut(reply.Error(), " ")
		if code == strings.ToUpper(code) && len(code) <= 16 { // WRONGTYPE, NOPERM, …: a script's error has text there
			return code
		}
	}
	return "_OTHER"
}

// resultOf is what came of a load.
func resultOf(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errorName(err) == "":
		return "not_found"
	default:
		return "error"
	}
}

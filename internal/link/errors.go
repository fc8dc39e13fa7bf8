package link

import "errors"

// What callers branch on. The root has them under the same names, and says what they mean to its
// users.
var (
	ErrClosed          = errors.New("aside: client is closed")
	ErrRedisAway       = errors.New("aside: Redis is away")
	ErrUnknownOutcome  = errors.New("aside: no answer from Redis, the outcome is unknown")
	ErrNoInvalidations = errors.New("aside: no invalidations arrive")
	ErrShared          = errors.New("aside: not on a shared connection")
)

package aside

import "errors"

// What callers branch on. The root has them under the same names, and says what they mean to its users.
var (
	errIsClosed       = errors.New("aside: client is closed")
	errRedisIsAway    = errors.New("aside: Redis is away")
	errOutcomeUnknown = errors.New("aside: no answer from Redis, the outcome is unknown")
	errNoPushes       = errors.New("aside: no invalidations arrive")
	errIsShared       = errors.New("aside: not on a shared connection")
)

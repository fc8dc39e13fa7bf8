package journal

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
)

// Op is what happened to a record's key. The values are the letters that stand in the file.
type Op byte

// The kinds of records.
const (
	Set    Op = 's' // a value was set
	Del    Op = 'd' // a key was deleted
	Settle Op = 'x' // Redis has answered for the record of this key with this stamp: it need not be replayed any more
)

// Record is one thing that has happened.
type Record struct {
	Op      Op
	DB      int    // Redis database
	Key     string // any bytes; not read back of a Settle
	Value   string // of a Set: the bytes to store, any
	Expires int64  // of a Set: when the value ends, in ms since 1970; always positive
	Stamp   string // when it happened and which client did it; 1 to 64 bytes of printable ASCII without spaces. Opaque here
	Slack   int64  // by how many µs the stamp's clock may have been wrong; negative: not known. Not read back of a Settle

	Seq uint64 // its number in the journal, from 1; set by Append, and by reading

	// KeyHash is HashKey of the key that a Settle is about, which has no key in the file. Set by
	// reading; Append needs either this or the Key.
	KeyHash KeyHash
}

// KeyHash stands for a key. Two keys with the same one will not be found.
type KeyHash [16]byte

// HashKey returns the hash of a key that a Settle has when it is read back.
func HashKey(key string) KeyHash {
	sum := sha256.Sum256(bytesOf(key))
	return KeyHash(sum[:16])
}

const (
	maxStamp = 64

	// overhead is at least what the file needs for a record beside its key and value, and what
	// memory does.
	overhead = 512
)

// ErrTooLarge means that a record is beyond Options.MaxRecordBytes.
var ErrTooLarge = errors.New("journal: record too large")

// ErrInvalid means that a record cannot be written.
var ErrInvalid = errors.New("journal: invalid record")

// bytes is how much a record takes, at most.
func (r *Record) bytes() int64 {
	n := int64(overhead)
	if r.Op != Settle {
		n += int64(len(r.Key))
	}
	if r.Op == Set {
		n += int64(len(r.Value))
	}
	return n
}

// validate reports whether a record can be written so that it is read as the same.
func (r *Record) validate(maxBytes int64) error {
	switch {
	case r.Op != Set && r.Op != Del && r.Op != Settle:
		return fmt.Errorf("%w: there is no Op %q", ErrInvalid, rune(r.Op))
	case r.DB < 0 || r.DB > math.MaxInt32:
		return fmt.Errorf("%w: DB is %d", ErrInvalid, r.DB)
	case r.Op == Set && r.Expires <= 0:
		return fmt.Errorf("%w: Expires of a Set is %d, must be positive", ErrInvalid, r.Expires)
	case !validStamp(r.Stamp):
		return fmt.Errorf("%w: Stamp is %q, must be 1 to %d bytes of printable ASCII without spaces", ErrInvalid, r.Stamp, maxStamp)
	case r.bytes() > maxBytes:
		return fmt.Errorf("%w: key and value are %d bytes, at most %d are possible (Options.MaxRecordBytes)",
			ErrTooLarge, r.bytes()-overhead, maxBytes-overhead)
	}
	return nil
}

func validStamp[T string | []byte](stamp T) bool {
	for i := range len(stamp) {
		if stamp[i] <= ' ' || stamp[i] > '~' {
			return false
		}
	}
	return len(stamp) >= 1 && len(stamp) <= maxStamp
}

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

	Operations Op = 'o' // commands have changed a key, whatever it held
	Opened     Op = 'p' // Redis is about to be asked to do the operations of a List for the first time

	Transaction Op = 't' // several things have happened as one: all of its Parts are there, or none
)

// Record is one thing that has happened.
type Record struct {
	Op      Op
	DB      int    // Redis database
	Key     string // any bytes; not read back of a Settle and an Opened
	Value   string // of a Set: the bytes to store, any
	Expires int64  // of a Set: when the value ends, in ms since 1970; always positive
	Stamp   string // when it happened and which client did it; 1 to 64 bytes of printable ASCII without spaces. Opaque here
	Slack   int64  // by how many µs the stamp's clock may have been wrong; negative: not known. Not read back of a Settle

	// Of Operations: the commands without the key, which is behind the first word of each. List, of
	// Opened too, is the stamp that names the list that they belong to.
	Commands [][]string
	List     string

	// Of a Transaction, which has beside them its DB only: 1 to 65,536 Sets, Dels and Operations of the same DB, in their order.
	Parts []Record

	Seq uint64 // its number in the journal, from 1; set by Append, and by reading

	// KeyHash is HashKey of the key that a Settle or an Opened is about, which has no key in the file. Set by
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

	// Likewise for a command and a word of Operations: lengths and line ends.
	commandOverhead, wordOverhead = 40, 16
)

// onlyHash reports whether a record has the hash of its key in place of the key.
func (r *Record) onlyHash() bool { return r.Op == Settle || r.Op == Opened }

// ErrTooLarge means that a record is beyond Options.MaxRecordBytes.
var ErrTooLarge = errors.New("journal: record too large")

// ErrInvalid means that a record cannot be written.
var ErrInvalid = errors.New("journal: invalid record")

// bytes is how much a record takes, at most.
func (r *Record) bytes() int64 {
	n := int64(overhead)
	switch r.Op {
	case Set:
		n += int64(len(r.Key) + len(r.Value))
	case Del:
		n += int64(len(r.Key))
	case Operations:
		for _, command := range r.Commands {
			n += int64(len(r.Key)) + commandOverhead
			for _, word := range command {
				n += int64(len(word)) + wordOverhead
			}
		}
	case Transaction:
		for i := range r.Parts {
			n += r.Parts[i].bytes()
		}
	case Settle, Opened, skip:
	}
	return n
}

// validate reports whether a record can be written so that it is read as the same.
func (r *Record) validate(maxBytes int64) error {
	switch {
	case r.Op == Transaction:
		return r.validateParts(maxBytes)
	case r.Op != Set && r.Op != Del && r.Op != Settle && r.Op != Operations && r.Op != Opened:
		return fmt.Errorf("%w: there is no Op %q", ErrInvalid, rune(r.Op))
	case r.DB < 0 || r.DB > math.MaxInt32:
		return fmt.Errorf("%w: DB is %d", ErrInvalid, r.DB)
	case r.Op == Set && r.Expires <= 0:
		return fmt.Errorf("%w: Expires of a Set is %d, must be positive", ErrInvalid, r.Expires)
	case r.Op == Operations && !validCommands(r.Commands):
		return fmt.Errorf("%w: Commands of Operations must be 1 to %d, each of 1 to %d words, and their names upper-case letters", ErrInvalid, maxCommands, maxWords)
	case (r.Op == Operations || r.Op == Opened) && !validStamp(r.List):
		return fmt.Errorf("%w: List is %q, must be as a Stamp", ErrInvalid, r.List)
	case !validStamp(r.Stamp):
		return fmt.Errorf("%w: Stamp is %q, must be 1 to %d bytes of printable ASCII without spaces", ErrInvalid, r.Stamp, maxStamp)
	case r.bytes() > maxBytes:
		return fmt.Errorf("%w: key and value are %d bytes, at most %d are possible (Options.MaxRecordBytes)",
			ErrTooLarge, r.bytes()-overhead, maxBytes-overhead)
	}
	return nil
}

// validateParts is validate of a Transaction.
func (r *Record) validateParts(maxBytes int64) error {
	if len(r.Parts) == 0 || len(r.Parts) > maxParts {
		return fmt.Errorf("%w: Parts of a Transaction are %d, must be 1 to %d", ErrInvalid, len(r.Parts), maxParts)
	}
	for i := range r.Parts {
		p := &r.Parts[i]
		if p.Op != Set && p.Op != Del && p.Op != Operations || p.DB != r.DB {
			return fmt.Errorf("%w: Parts of a Transaction must be Sets, Dels and Operations of its DB", ErrInvalid)
		}
		if err := p.validate(maxBytes); err != nil {
			return err
		}
	}
	if r.bytes() > maxBytes {
		return fmt.Errorf("%w: the parts of a transaction are %d bytes, at most %d are possible (Options.MaxRecordBytes)", ErrTooLarge, r.bytes(), maxBytes)
	}
	return nil
}

// How much a record of Operations may have, and a Transaction.
const maxCommands, maxWords, maxParts = 1 << 20, 1 << 20, 1 << 16

func validCommands(all [][]string) bool {
	for _, command := range all {
		if len(command) == 0 || len(command) > maxWords || !validName(command[0]) {
			return false
		}
	}
	return len(all) > 0 && len(all) <= maxCommands
}

// validName reports whether a command may have this name: MULTI and EXEC are not the caller's.
func validName(name string) bool {
	for i := range len(name) {
		if name[i] < 'A' || name[i] > 'Z' {
			return false
		}
	}
	return name != "" && name != "MULTI" && name != "EXEC"
}

func validStamp[T string | []byte](stamp T) bool {
	for i := range len(stamp) {
		if stamp[i] <= ' ' || stamp[i] > '~' {
			return false
		}
	}
	return len(stamp) >= 1 && len(stamp) <= maxStamp
}

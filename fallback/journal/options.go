package journal

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
)

// Sync is what an Append waits for.
type Sync int

// The values of Sync.
const (
	// Always: the record survives a loss of power when Append returns. Appends at the same time
	// share one fsync.
	Always Sync = iota

	// EverySecond: the record survives the end of the process when Append returns, and a loss of
	// power when the next fsync is through, which begins a second after the first record that it
	// covers, or after the one before it.
	EverySecond

	// OS: the record survives the end of the process when Append returns, and a loss of power when
	// the operating system has written it, usually within half a minute.
	OS
)

const defaultMaxRecordBytes = 600 << 20

// Options configures a Journal. The zero value is usable.
type Options struct {
	// Sync is what an Append waits for. Defaults to Always.
	Sync Sync

	// PartBytes is how large a part grows before the next one is begun. A single Append that is
	// larger gets a part of its own. Defaults to 64 MiB.
	PartBytes int64

	// MaxRecordBytes is how large a record may be, with 512 bytes for what surrounds key and value.
	// A larger record is refused with ErrTooLarge. Defaults to 600 MiB; Redis takes keys and values
	// of up to 512 MiB.
	MaxRecordBytes int64

	// Quarantine is the directory, in the same FS, for bytes that could not be read. It is made
	// when needed. Defaults to "quarantine".
	Quarantine string

	// FirstSeq is the least number that the next record may have: one more than the greatest that
	// the caller knows. An empty directory does not have it. Defaults to 1.
	FirstSeq uint64

	// Logger gets lines about damage and the disk's errors. Defaults to none.
	Logger *slog.Logger
}

func (o Options) withDefaults() Options {
	o.PartBytes = cmp.Or(o.PartBytes, 64<<20)
	o.MaxRecordBytes = cmp.Or(o.MaxRecordBytes, defaultMaxRecordBytes)
	o.Quarantine = cmp.Or(o.Quarantine, "quarantine")
	o.FirstSeq = cmp.Or(o.FirstSeq, 1)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

func (o Options) validate() error {
	var problems []error
	refuse := func(format string, args ...any) {
		problems = append(problems, fmt.Errorf("journal: Options."+format, args...))
	}
	if o.Sync < Always || o.Sync > OS {
		refuse("Sync is %d, must be Always, EverySecond or OS", o.Sync)
	}
	if o.PartBytes < 0 {
		refuse("PartBytes is %d, must not be negative", o.PartBytes)
	}
	if o.MaxRecordBytes < overhead {
		refuse("MaxRecordBytes is %d, must be at least %d", o.MaxRecordBytes, overhead)
	}
	if o.FirstSeq > maxSeq {
		refuse("FirstSeq is %d, must be at most %d", o.FirstSeq, uint64(maxSeq))
	}
	return errors.Join(problems...)
}

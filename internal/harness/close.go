package harness

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/fallback"
)

// Close closes a client whose FallbackDir is dir, or "", and returns when nobody has the directory any
// more. See Closed.
func Close(t testing.TB, c *aside.Client, dir string) {
	t.Helper()
	require.NoError(t, Closed(c, dir))
}

// Closed is Close without a test: it returns what is wrong. Client.Close gives the disk 2 seconds, and
// says so where that is too short. That says something of the machine: the disk then does its part later,
// which this waits for.
func Closed(c *aside.Client, dir string) error {
	err := c.Close()
	if dir == "" || !onlySlow(err) {
		return err
	}
	for end := time.Now().Add(longest); ; time.Sleep(5 * time.Millisecond) {
		store, failed := fallback.Open(dir, fallback.Options{Logger: Quiet})
		switch {
		case failed == nil:
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			err = store.Close(ctx)
			cancel()
			return err
		case !errors.Is(failed, fallback.ErrLocked) || time.Now().After(end):
			return errors.Join(err, failed)
		}
	}
}

// onlySlow reports whether an error of Client.Close says that the disk needs longer, and nothing else.
func onlySlow(err error) bool {
	return errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, fallback.ErrDisk) &&
		strings.HasPrefix(err.Error(), "aside: Close: the fallback store: ") && !strings.Contains(err.Error(), "\n")
}

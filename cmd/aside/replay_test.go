package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
)

// A client whose Close had no time for a slow disk still has the directory when replay tidies up.
func TestTidyingWaitsForADiskThatIsNotDone(t *testing.T) {
	at := filepath.Join(t.TempDir(), "fallback")
	held, err := fallback.Open(at, fallback.Options{})
	require.NoError(t, err)
	c := &replayCmd{Dir: at}
	require.ErrorIs(t, c.tidy(testContext(t), 0, 0), fallback.ErrLocked)
	tidied := make(chan error, 1)
	go func() { tidied <- c.tidy(testContext(t), 0, time.Minute) }() // ends when the directory is free
	require.NoError(t, held.Close(testContext(t)))
	require.NoError(t, <-tidied)
}

package fallback_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/storetest"
	"github.com/redaside/aside/internal/vfs"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func TestDirKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (fallback.Store, func() fallback.Store) {
		dir := t.TempDir()
		open := func() fallback.Store {
			s, err := fallback.Open(dir, fallback.Options{Logger: quiet()})
			require.NoError(t, err)
			return s
		}
		return open(), open
	})
}

// All records are in files at once, and no value in memory.
func TestDirKeepsTheContractWithoutMemory(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (fallback.Store, func() fallback.Store) {
		fsys := vfs.NewMem()
		open := func() fallback.Store {
			s, err := fallback.OpenFS(fsys, fallback.Forget(fallback.Options{Logger: quiet(), MaxQueue: 1, FlushInterval: time.Millisecond}))
			require.NoError(t, err)
			return s
		}
		return open(), open
	})
}

func TestMemoryKeepsTheContract(t *testing.T) {
	storetest.Run(t, func(*testing.T) (fallback.Store, func() fallback.Store) { return fallback.NewMemory(0), nil })
}

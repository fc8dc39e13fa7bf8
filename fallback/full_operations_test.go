package fallback_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/vfs"
)

// A store that is full of operations can be emptied: that their replay begins is noted all the same.
func TestAFullStoreNotesThatListsWereOpened(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T) fallback.Store{
		"memory": func(*testing.T) fallback.Store { return fallback.NewMemory(64 << 10) },
		"directory": func(t *testing.T) fallback.Store {
			d, err := fallback.OpenFS(vfs.NewMem(), fallback.Options{MaxBytes: 16 << 20, MemoryBytes: 64 << 10})
			require.NoError(t, err)
			return d
		},
		"directory whose disk is full": func(t *testing.T) fallback.Store {
			d, err := fallback.OpenFS(vfs.NewMem(), fallback.Options{MaxBytes: 1 << 20})
			require.NoError(t, err)
			return d
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, ctx := open(t), context.Background()
			defer func() { _ = s.Close(ctx) }()
			var notes []fallback.Record
			for i := 0; ; i++ {
				by := stamp.Stamp{Micros: 1_763_719_200_000_000 + int64(i), Client: "c0ffeec0ffeec0ff", Number: int64(i + 1)}.String()
				l := deferred.Together(by, by, [][]string{{"INCRBY", "1"}})
				r := fallback.Record{Op: fallback.OpOperations, Key: fmt.Sprintf("key-%d", i), Stamp: by, Value: l.String()}
				err := s.Put(ctx, r)
				if errors.Is(err, fallback.ErrFull) {
					break
				}
				require.NoError(t, err)
				notes = append(notes, fallback.Record{Op: fallback.OpOperations, Key: r.Key, Stamp: by, Value: deferred.List{ID: by, Opened: true}.String()})
			}
			require.NotEmpty(t, notes)
			require.NoError(t, s.Put(ctx, notes[:min(len(notes), 100)]...))
			r, ok, err := s.Get(notes[0].Key)
			require.NoError(t, err)
			require.True(t, ok)
			l, err := deferred.Parse(r.Value)
			require.NoError(t, err)
			require.True(t, l.Opened)
		})
	}
}

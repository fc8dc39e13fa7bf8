package ledger

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/keeping"
	"github.com/redaside/aside/internal/stamp"
	"github.com/redaside/aside/internal/vfs"
)

// The same writes, settlements, kills and ends leave the same record in a fallback.Dir and in the model. Where it is cut within one of
// these is looked at in package fallback (TestAListIsWhatItWasWhereverItIsCut).
func TestTheDirectoryDoesWhatADirDoes(t *testing.T) {
	for seed := range uint64(150) {
		random := rand.New(rand.NewPCG(seed, 0))
		disk := vfs.NewMem()
		open := func() *fallback.Dir {
			dir, err := fallback.OpenFS(disk, fallback.Options{FlushInterval: time.Hour})
			require.NoError(t, err)
			return dir
		}
		dir, model := open(), directory{}
		model.open()
		by, now := stamp.Of("00000000000000aa", time.Second), epoch
		var story []string
		for range 30 {
			now += random.Int64N(700_000)
			p := by.Next(now, 5, func() bool { return false })
			there, _, _ := model.index.Get(key)
			there.Key = key
			var records []fallback.Record
			what := random.IntN(12)
			switch what {
			case 0:
				records = []fallback.Record{{Op: fallback.OpSet, Key: key, Value: "0", Expires: now/1000 + 100_000, Stamp: p.Text, Slack: 5}}
			case 1:
				records = []fallback.Record{{Op: fallback.OpDel, Key: key, Stamp: p.Text, Slack: 5}}
			case 2: // one that comes late
				late, _ := stamp.Parse(p.Text)
				late.Micros -= 1_000_000
				records = []fallback.Record{{Op: fallback.OpDel, Key: key, Stamp: late.String(), Slack: 5}}
			case 3:
				if l := listOf(there); l.ID != "" {
					records = []fallback.Record{keeping.Opened(key, l.ID)}
				}
			case 4, 5:
				dir.Settle(there)
				model.settle(there)
			case 6: // kill -9
				disk = disk.Kill()
				model.kill()
				_ = dir.Close(t.Context()) // of a process that is gone: its disk is another one
				dir = open()
				model.open()
			case 7: // a good end, which flushes
				require.NoError(t, dir.Close(t.Context()))
				dir = open()
				for range 3 {
					model.flush()
				}
				model.kill()
				model.open()
			default:
				records = keeping.Records(there, listOf(there).ID, p, [][]string{{"INCRBY", fmt.Sprint(1 + random.IntN(9))}})
			}
			if len(records) > 0 {
				require.NoError(t, dir.Put(t.Context(), records...))
				model.end(model.begin(records))
			}
			story = append(story, fmt.Sprint(what, records))
			is, ok, err := dir.Get(key)
			require.NoError(t, err)
			want, known, _ := model.index.Get(key)
			require.Equal(t, known, ok, "seed %d: %v", seed, story)
			require.Equal(t, want, is, "seed %d: %v", seed, story)
		}
		require.NoError(t, dir.Close(t.Context()))
	}
}

package near

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The LRU is compared with the plainest one that there is.
func TestTheLRUDropsWhatWasUsedLongestAgo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const maxKeys, maxBytes = 4, 50
		l := newLRU(maxKeys, maxBytes)
		type kept struct {
			key   string
			entry *Entry
		}
		var model []kept // the last used first
		find := func(key string) int { return slices.IndexFunc(model, func(k kept) bool { return k.key == key }) }
		trim := func() {
			for weight := int64(0); ; weight = 0 {
				for _, k := range model {
					weight += int64(k.entry.weight.Load())
				}
				if len(model) <= maxKeys && weight <= maxBytes {
					return
				}
				model = model[:len(model)-1]
			}
		}
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			key := fmt.Sprint("k", rapid.IntRange(0, 7).Draw(t, "key"))
			i := find(key)
			switch rapid.IntRange(0, 3).Draw(t, "what") {
			case 0:
				e := new(Entry)
				e.weight.Store(rapid.Uint32Range(1, 60).Draw(t, "weight"))
				l.set(key, e)
				if i >= 0 {
					model = slices.Delete(model, i, i+1)
				}
				if e.weight.Load() <= maxBytes {
					model = slices.Insert(model, 0, kept{key, e})
				}
				trim()
			case 1:
				e, ok := l.get(key)
				require.Equal(t, i >= 0, ok)
				if ok {
					require.Same(t, model[i].entry, e)
					k := model[i]
					model = slices.Insert(slices.Delete(model, i, i+1), 0, k)
				}
			case 2:
				l.drop(key)
				if i >= 0 {
					model = slices.Delete(model, i, i+1)
				}
			case 3:
				if i >= 0 {
					l.reweigh(key, model[i].entry, rapid.Uint32Range(1, 60).Draw(t, "weight"))
					l.reweigh(key, new(Entry), 1000) // which is not there
					if model[i].entry.weight.Load() > maxBytes {
						model = slices.Delete(model, i, i+1)
					}
					trim()
				}
			}
			var keys []string
			for n := l.head.next; n != &l.head; n = n.next {
				keys = append(keys, n.key)
			}
			var want []string
			for _, k := range model {
				want = append(want, k.key)
			}
			require.Equal(t, want, keys)
			entries, bytes := l.size()
			require.Equal(t, len(model), entries)
			for _, k := range model {
				bytes -= int64(k.entry.weight.Load())
			}
			require.Zero(t, bytes)
		}
	})
}

// With more keys than the one above, so that chains and tables are as they are in use.
func TestTheLRUFindsWhatItHolds(t *testing.T) {
	const n = 20_000
	l, keys := newLRU(n, 1<<40), make([]string, 2*n)
	for i := range keys {
		keys[i] = fmt.Sprint("key:", i)
		l.set(keys[i], new(Entry))
	}
	for i, key := range keys {
		_, ok := l.get(key)
		require.Equal(t, i >= n, ok, key)
	}
	for i := n; i < 2*n; i += 2 {
		l.drop(keys[i])
	}
	for i, key := range keys[n:] {
		_, ok := l.get(key)
		require.Equal(t, i%2 == 1, ok, key)
	}
	entries, _ := l.size()
	require.Equal(t, n/2, entries)
	chains := 0
	for _, table := range l.tables {
		chains += len(table.chains)
	}
	require.LessOrEqual(t, chains, 4*n, "8 bytes for each")
}

func BenchmarkLRU(b *testing.B) {
	l := newLRU(100_000, 1<<30)
	keys := make([]string, 100_000)
	for i := range keys {
		keys[i] = fmt.Sprint("key:", i)
		e := new(Entry)
		e.weight.Store(500)
		l.set(keys[i], e)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i++ {
			l.get(keys[i%len(keys)])
		}
	})
}

package near

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What is no value has the place of one, and its rules, and is found by whoever asks for it alone.
func TestWhatIsNoValueIsFoundByNobodyElse(t *testing.T) {
	for name, keys := range map[string]int{"otter": 0, "a strict LRU": 10} {
		t.Run(name, func(t *testing.T) {
			var now int64 = 1
			early := 0
			valid := NewValidity(true)
			m := New(Options{
				MaxBytes: 1 << 20, MaxKeys: keys, AwayTTL: -1, Now: func() int64 { return now }, Home: func(string) *Validity { return valid },
				Early: func(*Entry) { early++ },
			})
			t.Cleanup(m.Close)
			valid.Restore()
			valid.Prove(valid.Epoch(), 100)
			require.Equal(t, int64(100), valid.LatestProof())
			put := func(ttl time.Duration) *Entry { return m.PutOther("k", m.Reserve("k", valid), "raw", ttl, nil) }

			require.NotNil(t, put(-1))
			require.Equal(t, "raw", m.Other("k").Raw())
			require.Nil(t, m.Lookup("k"))
			require.Nil(t, m.Peek("k"))
			_, ok := m.Examine("k")
			require.False(t, ok)
			m.KeepBeside("k", m.Generation("k"), &Decoded{}, 1, func(*Entry) bool { return true })
			require.Nil(t, m.Other("k").decoded.Load())
			for key := range m.Keys() {
				require.Equal(t, "k", key)
			}

			m.Invalidate("k")
			require.Nil(t, m.Other("k"))
			require.Zero(t, early, "it was not read by this client")
			r := m.Reserve("k", valid)
			m.Drop("k")
			require.Nil(t, m.PutOther("k", r, "raw", -1, nil), "it has changed while it was read")
			require.Zero(t, early)

			require.NotNil(t, put(10)) // it ends
			now += 10
			require.Nil(t, m.Other("k"))

			require.NotNil(t, put(-1)) // a value takes its place
			require.NotNil(t, m.Commit("k", m.Reserve("k", valid), Value{Raw: "v", TTL: -1}))
			require.Nil(t, m.Other("k"))
			require.Equal(t, "v", m.Lookup("k").Raw())
			require.NotNil(t, put(-1))
			require.Nil(t, m.Lookup("k"))

			r = m.Reserve("k", valid) // it is read once more
			before := m.OtherUnder("k", r)
			require.Equal(t, "raw", before.Raw())
			require.NotNil(t, m.PutOther("k", r, "raw and more", 50, before))
			before = m.OtherUnder("k", r)
			require.NotNil(t, m.PutOther("k", r, "raw", -1, before))
			now += 50
			require.Nil(t, m.OtherUnder("k", r), "it ends when what it was made of does")
			require.NotNil(t, put(-1))

			now = 100 // the lease is over
			require.Nil(t, m.Other("k"))
			require.NotNil(t, m.OtherUnder("k", r))
			valid.Degrade(200)
			require.Equal(t, "raw", m.Other("k").Raw())

			read := m.Other("k") // an own write that waits for the server drops it, and it comes back
			changes := m.Drop("k")
			outage := valid.Outage()
			require.Nil(t, m.PutBack("k", read, outage-1, changes, never), "the outage is over")
			require.Nil(t, m.PutBack("k", read, outage, changes-1, never), "it has changed since")
			require.NotNil(t, m.PutBack("k", read, outage, changes, never))
			require.Equal(t, "raw", m.OtherBefore("k").Raw())
			require.Nil(t, m.Other("k"), "it is not what the key holds now")
			require.Nil(t, m.OtherUnder("k", m.Reserve("k", valid)))
			require.Nil(t, m.Lookup("k"))
			again := m.OtherBefore("k")
			changes = m.Drop("k")
			require.Nil(t, m.OtherBefore("k"))
			require.NotNil(t, m.PutBack("k", again, outage, changes, 150))
			now = 150
			require.Nil(t, m.OtherBefore("k"), "its time is over")
			now = 100
			m.Invalidate("k")
			require.Nil(t, m.OtherBefore("k"))
			changes = m.Drop("k")
			require.NotNil(t, m.PutBack("k", read, outage, changes, never))
			now = 199
			require.NotNil(t, m.OtherBefore("k"))
			now = 200
			require.Nil(t, m.OtherBefore("k"), "it was read, and not written")
			now = 100
			valid.Restore()
			require.Nil(t, m.OtherBefore("k"), "the outage is over")
			valid.Degrade(200)
			require.Nil(t, m.OtherBefore("k"), "this is another one")
			require.NotNil(t, put(-1))
			now = 200
			require.Nil(t, m.Other("k"))
			valid.NewEpoch()
			require.Nil(t, m.OtherUnder("k", m.Reserve("k", valid)), "it was read by another connection")
			require.Equal(t, int64(100), valid.LatestProof(), "also once the connection is lost")

			valid.Deafen()
			require.Nil(t, put(-1), "nothing is told of it")
		})
	}
}

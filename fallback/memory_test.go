package fallback

import (
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestMemoryIsBounded(t *testing.T) {
	const most = 200_000
	m := NewMemory(most)
	value := strings.Repeat("v", 1000)
	for i := range 300 {
		m.Fill(fill(fmt.Sprint("fill", i), value))
		require.LessOrEqual(t, m.Stats().Bytes, int64(most*3/4), "there is room for sets")
	}
	expect(t, m, all(m)["fill299"])
	var full error
	var kept []Record
	for i := 0; full == nil; i++ {
		r := set(fmt.Sprint("set", i), value)
		if full = m.Put(t.Context(), r); full == nil {
			kept = append(kept, r)
		}
		require.LessOrEqual(t, m.Stats().Bytes, int64(most))
	}
	require.ErrorIs(t, full, ErrFull)
	require.ErrorContains(t, full, "200000")
	require.Zero(t, m.Stats().Fills, "fills went first")
	require.Greater(t, len(kept), 120)
	for i := range 20 {
		mustPut(t, m, del(fmt.Sprint("del", i)))
	}
	kept[0] = set(kept[0].Key, "shorter")
	mustPut(t, m, kept[0])
	expect(t, m, kept...)
}

func TestMemoryForgetsWhatHasExpired(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory(0)
		for i := range 3000 {
			r := fill(fmt.Sprint(i), "v")
			r.Expires = in(10 * time.Second)
			m.Fill(r)
		}
		r := set("set", strings.Repeat("v", 10_000))
		r.Expires = in(10 * time.Second)
		mustPut(t, m, r)
		time.Sleep(11 * time.Second)
		expect(t, m, r)
		m.Fill(fill("next", "v"))
		require.Equal(t, 1, m.Stats().Fills)
		time.Sleep(time.Minute)
		mustPut(t, m, del("k"))
		expect(t, m, Record{Op: OpDel, Key: "set", Stamp: r.Stamp, Slack: r.Slack})
		require.Less(t, m.Stats().Bytes, int64(2000))
	})
}

func TestMemorySaysWhatIsLost(t *testing.T) {
	m := NewMemory(0)
	mustPut(t, m, set("a", "v"), del("b"))
	m.Fill(fill("c", "v"))
	err := m.Close(t.Context())
	require.ErrorContains(t, err, "2 writes and deletes")
	require.Equal(t, err, m.Close(t.Context()))
	require.NoError(t, NewMemory(0).Close(t.Context()))
}

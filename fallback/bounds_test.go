package fallback

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

func TestMaxBytesBoundsTheFolder(t *testing.T) {
	const most = 200_000
	o := byHand()
	o.MaxBytes = most
	o.MaxQueue = 10
	m := vfs.NewMem()
	d := open(t, m, o)
	size := func() (n int64) {
		for _, name := range files(t, m) {
			if info, err := m.Lstat(name); err == nil && name != lockName && !info.IsDir() {
				n += info.Size()
			}
		}
		return n
	}
	value := strings.Repeat("v", 1000)
	for i := range 300 {
		d.Fill(fill(fmt.Sprint("fill", i), value))
		require.LessOrEqual(t, size(), int64(most))
	}
	require.NoError(t, flush(d))
	fills := d.Stats().Fills
	require.Greater(t, fills, 50)
	require.LessOrEqual(t, size(), int64(most*3/4), "there is room for sets")
	_, ok, _ := d.Get("fill299")
	require.True(t, ok, "the newest are kept")

	var full error
	var kept []Record
	for i := 0; full == nil; i++ {
		require.Less(t, i, 1000)
		r := set(fmt.Sprint("set", i), value)
		if full = d.Put(t.Context(), r); full == nil {
			kept = append(kept, r)
		}
		require.LessOrEqual(t, size(), int64(most))
	}
	require.ErrorIs(t, full, ErrFull)
	require.ErrorContains(t, full, "Options.MaxBytes (200000)")
	require.ErrorContains(t, full, "raise it")
	require.Zero(t, d.Stats().Fills, "fills went first")
	require.Greater(t, len(kept), 120)
	require.NoError(t, d.Stats().Err, "the disk is well")

	// There is room for deletes still, and for writes over what is there, again and again.
	for i := range 10 {
		mustPut(t, d, del(fmt.Sprint("del", i)))
	}
	for i := range 50 {
		r := del(kept[i].Key)
		mustPut(t, d, r)
		kept[i] = r
	}
	for range 200 {
		r := set(kept[0].Key, value)
		mustPut(t, d, r)
		kept[0] = r
		require.LessOrEqual(t, size(), int64(most))
	}
	expect(t, d, kept...)
	d.Fill(fill("one more", strings.Repeat("v", most)))
	expectNone(t, d, "one more")

	closeDir(t, d)
	d = open(t, m, o)
	expect(t, d, kept...)
	d.Settle(kept...)
	require.NoError(t, flush(d))
	mustPut(t, d, set("k", value))
}

// One fill too many costs one or two old ones, even while their files are still to be removed.
func TestAFillThatDoesNotFitPushesOutTheOldest(t *testing.T) {
	o := byHand()
	o.MaxBytes = 400_000
	m := vfs.NewMem()
	d := open(t, m, o)
	for i := range 1000 {
		d.Fill(fill(fmt.Sprint("fill", i), strings.Repeat("v", 1000)))
		if i%50 == 0 {
			require.NoError(t, flush(d))
		}
	}
	require.NoError(t, flush(d))
	before := d.Stats().Fills
	for i := range 60 {
		d.Fill(fill(fmt.Sprint("new", i), strings.Repeat("v", 1000)))
	}
	require.Greater(t, d.Stats().Fills, before-25)
	_, newest, _ := d.Get("new59")
	require.True(t, newest)
	_, oldest, _ := d.Get(fmt.Sprint("fill", 1000-before))
	require.False(t, oldest)
	d.Fill(fill("new59", strings.Repeat("v", 400_000)))
	expectNone(t, d, "new59") // the later one does not fit, and the older one is out of date
}

// A Put waits for room in memory, for as long as its context lets it, and learns what the disk
// says.
func TestValuesThatWaitForTheDiskAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := vfs.NewMem()
		d := open(t, m, Options{MemoryBytes: 10_000})
		defer closeDir(t, d)
		value := strings.Repeat("v", 4000)
		var want []Record
		for i := range 20 {
			r := set(fmt.Sprint(i), value)
			mustPut(t, d, r)
			want = append(want, r)
			require.LessOrEqual(t, valuesIn(d), int64(10_000))
		}
		large := set("larger than all memory", strings.Repeat("v", 50_000))
		mustPut(t, d, large)
		expect(t, d, append(want, large)...)

		require.NoError(t, flush(d))
		m.FailAt(1, vfs.Fault{Err: syscall.ENOSPC, On: vfs.CallMkdir, Sticky: true})
		mustPut(t, d, set("a", value), set("b", value))
		err := d.Put(t.Context(), set("c", value))
		require.ErrorIs(t, err, ErrFull, "the disk said so")
		require.ErrorIs(t, err, syscall.ENOSPC)

		m.Heal()
		m.Hang()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		require.ErrorIs(t, d.Put(ctx, set("c", value)), context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(began))
		m.Unhang()
		mustPut(t, d, set("c", value))
	})
}

func TestValuesBeyondMemoryAreReadFromTheirFiles(t *testing.T) {
	m := vfs.NewMem()
	o := byHand()
	o.MemoryBytes = 10_000
	d := open(t, m, o)
	var want []Record
	for i := range 40 {
		d.Fill(fill(fmt.Sprint("fill", i), "v"))
	}
	for i := range 40 {
		r := set(fmt.Sprint(i), strings.Repeat("v", 1000))
		mustPut(t, d, r)
		want = append(want, r)
	}
	check := func() {
		require.NoError(t, flush(d))
		require.LessOrEqual(t, valuesIn(d), o.MemoryBytes)
		require.Greater(t, valuesIn(d), o.MemoryBytes*8/10)
		expect(t, d, want...)
		require.Len(t, all(d), 80)
	}
	check()
	closeDir(t, d)
	d = open(t, m, o)
	check()

	// As much in the journal as was possible when it was written.
	m = vfs.NewMem()
	large := byHand()
	d = open(t, m, large)
	mustPut(t, d, want...)
	m = m.Kill()
	d = open(t, m, o)
	require.LessOrEqual(t, valuesIn(d), o.MemoryBytes)
	expect(t, d, want...)
}

package drill

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Where the keys of a drill do not end at once, they are not all looked at by each load, while all
// reads wait for that; and those whose time is over make room.
func TestAFullDrillSweepsSeldom(t *testing.T) {
	t.Parallel()
	const keys, loads = 100_000, 20_000 // a second
	var now int64
	d := New(Options{Fraction: 1, KeptFor: time.Minute, Now: func() int64 { return now }, MemoryHits: func() int64 { return 0 }})
	for i := range 120 * loads {
		now += int64(time.Second) / loads
		d.Keep(fmt.Sprint(i%keys), time.Duration(i%70)*time.Second)
	}
	require.LessOrEqual(t, d.sweeps, 2*8+1, "one for an eighth of KeptFor")
	require.Len(t, d.loaded, keys)
	now += int64(time.Minute)
	d.Keep("more", time.Second)
	require.Len(t, d.loaded, 1)

	short := New(Options{Fraction: 1, KeptFor: -1, Now: func() int64 { return now }, MemoryHits: func() int64 { return 0 }})
	for i := range 10 * loads {
		now += int64(time.Second) / loads
		short.Keep(fmt.Sprint(i), time.Millisecond)
	}
	require.LessOrEqual(t, short.sweeps, 11, "one a second")
	require.LessOrEqual(t, len(short.loaded), loads+loads/500, "those of a second, and of the last ttl")
}

package drill

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestQuantilesAreWithinAnEighth(t *testing.T) {
	t.Parallel()
	for i := range bucketCount - 1 {
		require.Equal(t, i+1, bucketOf(bucketEnd(i)), "a bucket begins where the one before ends")
		require.Equal(t, i, bucketOf(bucketEnd(i)-1))
	}
	require.Equal(t, bucketCount-1, bucketOf(1<<62))
	require.Zero(t, bucketOf(-1))

	var ds durations
	require.Zero(t, ds.quantile(0.5))
	const n = 1000
	for _, i := range rand.Perm(n) {
		ds.add(time.Duration(i+1) * time.Millisecond)
	}
	for _, q := range []float64{0, 0.5, 0.99} {
		exact := time.Duration(q*n+1) * time.Millisecond
		require.GreaterOrEqual(t, ds.quantile(q), exact, q)
		require.LessOrEqual(t, ds.quantile(q), exact+exact/8, q)
	}
	require.Equal(t, n*time.Millisecond, ds.quantile(0.9999))
	require.Equal(t, int64(n*(n+1)/2)*int64(time.Millisecond), ds.sum.Load())
}

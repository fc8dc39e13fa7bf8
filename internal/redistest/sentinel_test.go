package redistest

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSentinelsAgreeOnAPrimaryAndOnItsSuccessors(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	require.Len(t, s.Addrs(), 3)
	require.Len(t, s.Replicas(), 2)
	first := s.Primary()
	first.Do("SET", "k", "v")
	for _, replica := range s.Replicas() {
		eventually(t, "a replica to have it", func() bool { return replica.Do("GET", "k") == "v" })
	}
	_, err := s.Replicas()[0].TryDo("SET", "k", "v")
	require.ErrorContains(t, err, "READONLY")

	s.Failover()
	second := s.Primary()
	require.NotEqual(t, first.Addr(), second.Addr())
	require.Positive(t, s.Promotions(), "what the server logs when it is promoted is known")
	assert.Equal(t, "v", second.Do("GET", "k"))
	assert.Equal(t, "OK", second.Do("SET", "k", "w"))
	eventually(t, "the old primary to follow the new one", func() bool {
		value, _ := first.TryDo("GET", "k") // it breaks connections when it becomes a replica
		return value == "w"
	})

	s.Sentinel(0).Kill() // two are enough
	second.Kill()
	s.AwaitFailover(second)
	third := s.Primary()
	require.NotEqual(t, second.Addr(), third.Addr())
	assert.Equal(t, "OK", third.Do("SET", "k", "x"))
	assert.Len(t, s.Replicas(), 2)
	assert.Equal(t, "primary", s.MasterSet())
}

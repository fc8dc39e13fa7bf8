package redistest

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// ownExternal starts a server and lets the rest of the test take it for somebody else's.
func ownExternal(t *testing.T) *Server {
	server := startBinary(t, needBinary(t, "this test"), settings{})
	t.Setenv("REDIS_ADDR", server.Addr())
	t.Setenv("ASIDE_BACKEND", "external")
	t.Setenv("ASIDE_NO_SKIP", "")
	return server
}

func TestAnExternalServerWithKeysIsRefused(t *testing.T) {
	server := ownExternal(t)
	server.Do("SET", "precious", "v")
	end := run(func(t testing.TB) { Start(t) })
	assert.True(t, end.failed)
	assert.Contains(t, end.said, server.Addr())
	assert.Contains(t, end.said, "FLUSHALL")
	assert.Equal(t, "v", server.Do("GET", "precious"))
}

func TestAnExternalServerIsErasedAndGetsItsSettingsBack(t *testing.T) {
	server := ownExternal(t)
	before := server.Do("CONFIG", "GET", "maxmemory*")
	t.Run("", func(t *testing.T) {
		s := Start(t, WithArgs("--maxmemory", "50mb"), WithPassword("secret"), WithArgs("--maxmemory-policy", "allkeys-lru"))
		s.Do("SET", "k", "v")
		assert.Equal(t, []any{"maxmemory", "52428800"}, s.Do("CONFIG", "GET", "maxmemory"))
		_, err := server.TryDo("PING")
		require.ErrorContains(t, err, "NOAUTH")
		s.Kill() // and so it is left
	})
	assert.Empty(t, server.Do("KEYS", "*"))
	assert.Equal(t, before, server.Do("CONFIG", "GET", "maxmemory*"))
}

func TestAnExternalServerThatATestLeftBehindIsTakenAgain(t *testing.T) {
	server := ownExternal(t)
	x := external{upstream: server.Addr()}
	require.NoError(t, x.erase(settings{})) // as Start does, in a process that was killed then
	server.Do("SET", "leftover", "v")
	end := run(func(tb testing.TB) { assert.Nil(t, Start(tb).Do("GET", "leftover")) })
	assert.Equal(t, ending{}, end)
}

func TestASettingThatAnExternalServerDoesNotTakeSkips(t *testing.T) {
	ownExternal(t)
	for _, args := range [][]string{{"--databases", "32"}, {"--no-such-setting", "1"}} {
		end := run(func(t testing.TB) { Start(t, WithArgs(args...)) })
		assert.True(t, end.skipped)
		assert.Contains(t, end.said, args[0])
	}
}

func TestASecondStartSharesAnExternalServer(t *testing.T) {
	ownExternal(t)
	a := Start(t)
	a.Do("SET", "k", "v")
	t.Run("in a subtest", func(t *testing.T) {
		b := Start(t)
		assert.Equal(t, "v", b.Do("GET", "k"))
		b.Kill()
	})
	a.Restart()
	assert.Nil(t, a.Do("GET", "k"))
	end := run(func(tb testing.TB) { Start(sameName{tb, t.Name()}, WithPassword("secret")) })
	assert.True(t, end.skipped, "it cannot have what the first Start did not ask for")
}

type sameName struct {
	testing.TB
	name string
}

func (s sameName) Name() string { return s.name }

func TestAnExternalServerServesOneTestAtATime(t *testing.T) {
	ownExternal(t)
	var end ending
	done := make(chan struct{})
	t.Run("first", func(t *testing.T) {
		s := Start(t)
		go func() { // ends when the subtest does
			defer close(done)
			end = run(func(tb testing.TB) { Start(tb).Do("SET", "k", "second") })
		}()
		s.Do("SET", "k", "first")
		select {
		case <-done:
			t.Error("a second test had the server at the same time")
		default:
		}
		assert.Equal(t, "first", s.Do("GET", "k"))
	})
	<-done
	assert.Equal(t, ending{}, end)
}

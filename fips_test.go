package aside_test

import (
	"context"
	"crypto/fips140"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
	"github.com/redaside/aside/internal/redistest"
)

// Where only what FIPS 140-3 approves of may be used, SHA-1 and MD5 panic: Redis names scripts by
// the one, and record files are named by the other. The test runs itself again in a process where
// that is so.
func TestAllWorksWhereOnlyFIPS140IsAllowed(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
	if !fips140.Enforced() {
		child := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := child.CombinedOutput()
		require.NoError(t, err, "%s", out)
		require.Contains(t, string(out), "--- PASS: "+t.Name())
		return
	}
	server := redistest.Start(t)
	dir, option := durable(t)
	c, ctx := newClient(t, server.Addr(), hasty, option, func(o *aside.Options) { o.Fallback.FlushInterval = 10 * time.Millisecond }), testContext(t)
	value, err := c.Get(ctx, time.Minute, "k", newSource("v").Load)
	require.NoError(t, err)
	require.Equal(t, "v", value)
	_, err = c.GetMulti(ctx, time.Minute, []string{"a", "b"}, newSource("v").LoadMany)
	require.NoError(t, err)
	server.Do("SET", "bad", "{")
	u, err := aside.Typed(c, zstd.New(codec.JSON[user](), 0)).Get(ctx, time.Minute, "bad", func(context.Context, string) (user, error) { return user{1, "Ada"}, nil })
	require.NoError(t, err)
	require.Equal(t, user{1, "Ada"}, u)
	require.NoError(t, c.Set(ctx, time.Minute, "deleted", "v"))
	stored(t, c, "k", "a", "b", "bad")

	server.Freeze()
	require.NoError(t, c.Set(ctx, time.Minute, "set", "while away"))
	require.NoError(t, c.Del(ctx, "deleted"))
	eventually(t, "records have files of their own", func() bool {
		n := 0
		for _, name := range files(t, dir) {
			if strings.HasSuffix(name, ".json") {
				n++
			}
		}
		return n >= 2
	})
	server.Thaw()
	awaitMode(t, c, aside.Healthy)
	require.Equal(t, "while away", server.Do("GET", "set"))
	require.Nil(t, server.Do("GET", "deleted"))
	eventually(t, "nothing is left on disk", func() bool { return len(files(t, dir)) == 0 })
}

package zstd_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

// What a bubble of testing/synctest makes, others must not use: it would end the process. So it is
// in a process of its own, whose first use is in one.
func TestItWorksInABubbleAndAfterIt(t *testing.T) {
	const child = "ASIDE_TEST_BUBBLE"
	if os.Getenv(child) == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), child+"=1")
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		return
	}
	text := strings.Repeat("compressible ", 1000)
	use := func(t *testing.T) {
		c := zstd.New(codec.String(), 0)
		s, err := c.Encode(text)
		require.NoError(t, err)
		require.Less(t, len(s), len(text)/10)
		back, err := c.Decode(s)
		require.NoError(t, err)
		require.Equal(t, text, back)
	}
	synctest.Test(t, use)
	synctest.Test(t, use)
	use(t)
	synctest.Test(t, use)
	use(t)
}

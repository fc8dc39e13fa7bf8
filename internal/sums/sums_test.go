package sums_test

import (
	"crypto/fips140"
	"encoding/hex"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/sums"
)

func TestSums(t *testing.T) {
	s1, m := sums.SHA1("abc"), sums.MD5("abc")
	require.Equal(t, "a9993e364706816aba3e25717850c26c9cd0d89d", hex.EncodeToString(s1[:]))
	require.Equal(t, "900150983cd24fb0d6963f7d28e17f72", hex.EncodeToString(m[:]))
}

func TestSumsWhereOnlyFIPS140IsAllowed(t *testing.T) {
	if fips140.Enforced() {
		return // the child, whose other test is the one
	}
	child := exec.Command(os.Args[0], "-test.run=^TestSums$")
	child.Env = append(os.Environ(), "GODEBUG=fips140=only")
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
}

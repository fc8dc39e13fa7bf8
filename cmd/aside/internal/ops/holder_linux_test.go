package ops_test

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// A process that was killed leaves its number, which another one has by and by. That one must not
// be shown as the one that has the directory.
func TestANumberThatIsAnothersNowIsNotTakenForTheHolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "fallback")
	store := open(t, dir, still(0))
	_, found := read(t, dir)
	require.Equal(t, os.Getpid(), found.Holder)
	require.True(t, found.Running)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "lock"), []byte("7\n"), 0o600))
	_, found = read(t, dir)
	require.Equal(t, os.Getpid(), found.Holder, "the kernel knows better than the file, as where the process counts itself in a container")
	require.True(t, found.Running)
	require.NoError(t, store.Close(t.Context()))

	require.NoError(t, os.WriteFile(filepath.Join(dir, "lock"), []byte(strconv.Itoa(os.Getppid())+"\n"), 0o600))
	_, found = read(t, dir)
	require.Equal(t, os.Getppid(), found.Holder)
	require.False(t, found.Running, "there is such a process, and it has not locked anything")
}

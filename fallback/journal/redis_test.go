package journal

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/vfs"
)

// Every part must be what Redis itself would read: a person in an emergency has redis-check-aof,
// not us.
func TestRedisLoadsEveryPart(t *testing.T) {
	if testing.Short() {
		t.Skip("needs a server")
	}
	program := redistest.Binary()
	if program == "" {
		redistest.Skip(t, "needs a redis-server binary, to load what we wrote")
	}
	t.Setenv("ASIDE_BACKEND", "binary")

	year := time.Now().Add(365 * 24 * time.Hour).UnixMilli()
	long := strings.Repeat("s", maxStamp)
	records := []Record{
		{Op: Set, Key: "a", Value: "1", Expires: year, Stamp: "s"},
		{Op: Set, DB: 3, Key: "a", Value: "in 3", Expires: year, Stamp: "s"},
		{Op: Settle, DB: 9, Key: "a", Stamp: long},
		{Op: Set, DB: 3, Key: "b", Value: "also in 3", Expires: year, Stamp: "s"},
		{Op: Set, Key: "gone", Value: "x", Expires: year, Stamp: "s"},
		{Op: Set, Key: "expired", Value: "x", Expires: 1, Stamp: "s"},
		{Op: Del, Key: "gone", Stamp: long},
		{Op: Set, Key: "", Value: "", Expires: year, Stamp: "s"},
		{Op: Set, DB: 15, Key: "\x00\xff\r\n#aside 1 ", Value: "\r\n#x\r\n*1\r\n$4\r\nPING\r\n", Expires: year, Stamp: "s"},
		{Op: Set, Key: "large", Value: strings.Repeat("\x00y", 1<<20), Expires: year, Stamp: "s"},
		{Op: Set, Key: "a", Value: "2", Expires: year, Stamp: "s"},
		{Op: Settle, Key: "a", Stamp: "s"},
		{Op: Set, Key: "n", Value: "5", Expires: year, Stamp: "s"},
		{Op: Operations, Key: "n", Commands: [][]string{{"INCRBY", "2"}}, List: "s", Stamp: "s"},
		{Op: Opened, Key: "n", List: "s", Stamp: "s"},
		{Op: Operations, DB: 3, Key: "l", Commands: [][]string{{"DEL"}, {"RPUSH", "\r\n*1\r\n$4\r\nEXEC\r\n", ""}, {"PERSIST"}}, List: "s", Stamp: "s"},
		{Op: Transaction, DB: 3, Parts: []Record{
			{Op: Operations, DB: 3, Key: "x", Commands: [][]string{{"SET", "1"}, {"INCRBY", "2"}}, List: "s", Stamp: "s"},
			{Op: Set, DB: 3, Key: "y", Value: "\r\n#part x", Expires: year, Stamp: long},
			{Op: Del, DB: 3, Key: "b", Stamp: "s"},
		}},
	}
	dir := t.TempDir()
	fsys, err := vfs.Open(dir)
	require.NoError(t, err)
	defer fsys.Close()
	j := open(t, fsys, Options{PartBytes: 1000})
	for _, r := range records {
		require.NoError(t, j.Append(t.Context(), r))
	}
	require.NoError(t, j.Close(t.Context()))
	j = open(t, fsys, Options{FirstSeq: 1000}) // numbers that were given up are written, too
	require.NoError(t, j.Append(t.Context(), Record{Op: Set, DB: 1, Key: "last", Value: "v", Expires: year, Stamp: "s"}))
	require.NoError(t, j.Close(t.Context()))
	names := parts(t, fsys)
	require.Greater(t, len(names), 2)

	if check := checkAOF(program); check != "" {
		for _, name := range names {
			out, err := exec.Command(check, filepath.Join(dir, journalDir, name)).CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Contains(t, string(out), "is valid", name)
		}
	} else {
		redistest.Skip(t, "needs redis-check-aof or valkey-check-aof, in PATH or beside the server")
	}

	data := t.TempDir()
	var manifest bytes.Buffer
	require.NoError(t, os.Mkdir(filepath.Join(data, "appendonlydir"), 0o700))
	for i, name := range names {
		part, err := os.ReadFile(filepath.Join(dir, journalDir, name))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(data, "appendonlydir", name), part, 0o600))
		fmt.Fprintf(&manifest, "file %s seq %d type i\n", name, i+1)
	}
	require.NoError(t, os.WriteFile(filepath.Join(data, "appendonlydir", "appendonly.aof.manifest"), manifest.Bytes(), 0o600))
	if old, _ := regexp.MatchString(`^Redis server v=[1-6]\.`, output(t, program, "--version")); old {
		// It knows neither annotations nor an append-only directory. It must say so, and not load a
		// half.
		out, err := exec.CommandContext(t.Context(), program, "--port", "0", "--unixsocket", "socket", "--dir", filepath.Join(data, "appendonlydir"), "--appendonly", "yes", "--appendfilename", names[0]).CombinedOutput()
		assert.Error(t, err)
		assert.Contains(t, string(out), "Bad file format")
		return
	}
	server := redistest.Start(t, redistest.WithArgs("--dir", data, "--appendonly", "yes", "--databases", "16"))

	get := func(db int, key string) any {
		return server.Do("EVAL", "redis.call('SELECT', ARGV[1]) return redis.call('GET', KEYS[1])", "1", key, strconv.Itoa(db))
	}
	size := func(db int) any {
		return server.Do("EVAL", "redis.call('SELECT', ARGV[1]) return redis.call('DBSIZE')", "0", strconv.Itoa(db))
	}
	for _, want := range []struct {
		db         int
		key, value string
	}{
		{0, "a", "2"},
		{3, "a", "in 3"},
		{3, "x", "3"},
		{3, "y", "\r\n#part x"},
		{0, "n", "7"},
		{0, "", ""},
		{15, "\x00\xff\r\n#aside 1 ", "\r\n#x\r\n*1\r\n$4\r\nPING\r\n"},
		{0, "large", strings.Repeat("\x00y", 1<<20)},
		{1, "last", "v"},
	} {
		assert.Equal(t, want.value, get(want.db, want.key), "%d %q", want.db, want.key)
	}
	assert.Nil(t, get(0, "gone"))
	assert.Nil(t, get(0, "expired"))
	assert.Nil(t, get(3, "b"))
	assert.Nil(t, get(9, "a"))
	for db, n := range map[int]int64{0: 4, 1: 1, 3: 4, 9: 0, 15: 1} {
		assert.Equal(t, n, size(db), "keys in database %d", db)
	}
	assert.Equal(t, year, server.Do("PEXPIRETIME", "a"))
}

// checkAOF finds the program that checks append-only files, if there is one.
func checkAOF(server string) string {
	for _, name := range []string{"redis-check-aof", "valkey-check-aof"} {
		for _, candidate := range []string{filepath.Join(filepath.Dir(server), name), name} {
			if program, err := exec.LookPath(candidate); err == nil {
				return program
			}
		}
	}
	return ""
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).Output()
	require.NoError(t, err)
	return string(out)
}

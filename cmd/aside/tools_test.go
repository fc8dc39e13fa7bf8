//go:build unix

package main

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/schollz/progressbar/v3"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/vfs"
)

// A script goes by the exit code: where something that was acknowledged may be missing no tool may
// say that all went well, not even when it is run again and what could not be read is in quarantine
// by then.
func TestNoToolEndsWellWhereSomethingMayBeMissing(t *testing.T) {
	server := redistest.Start(t)
	recordOf := func(dir string) string { return filepath.Join(dir, fallback.FileOf(0, "in a file")) }
	partOf := func(dir string) string {
		parts, err := filepath.Glob(filepath.Join(dir, "journal", "*.aof"))
		require.NoError(t, err)
		return parts[0]
	}
	content := func(name string) []byte {
		b, err := os.ReadFile(name)
		require.NoError(t, err)
		return b
	}
	write := func(name string, b []byte) { require.NoError(t, os.WriteFile(name, b, 0o600)) }
	for name, c := range map[string]struct {
		do     func(dir string)
		missed bool
		says   string
		once   bool // the end of the journal is cut off, and then nobody knows of it
	}{
		"nothing":                    {func(string) {}, false, "ok          every record can be read", false},
		"another file of somebody's": {func(dir string) { write(filepath.Join(dir, "notes.txt"), nil) }, false, "foreign     notes.txt", false},
		"an emptied record":          {func(dir string) { write(recordOf(dir), nil) }, true, "empty       db/0/", false},
		"a swapped record": {func(dir string) {
			another := filepath.Join(dir, fallback.FileOf(0, "loaded"))
			a, b := content(recordOf(dir)), content(another)
			write(recordOf(dir), b)
			write(another, a)
		}, true, "it belongs at " + fallback.FileOf(0, "in a file"), false},
		"a record that is a link": {func(dir string) {
			require.NoError(t, os.Remove(recordOf(dir)))
			require.NoError(t, os.Symlink("/etc/passwd", recordOf(dir)))
		}, true, "corrupt     db/0/", false},
		"a journal whose line ends were converted": {func(dir string) {
			write(partOf(dir), bytes.ReplaceAll(content(partOf(dir)), []byte("\r\n"), []byte("\n")))
		}, true, "3 more records seem to begin in it", false},
		"an emptied journal": {func(dir string) { write(partOf(dir), nil) }, true, "torn        journal/", true},
		"a torn journal":     {func(dir string) { write(partOf(dir), content(partOf(dir))[:100]) }, true, "torn        journal/", true},
		"a name that is not just shown": {func(dir string) { write(dir+"/x\x1b]0;title\a\x1b[31m", nil) }, false,
			`foreign     "x\x1b]0;title\a\x1b[31m": aside puts nothing of that name there`, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := written(t)
			c.do(dir)
			code := 0
			if c.missed {
				code = 1
			}
			got := runAside(t, "verify", dir)
			require.Contains(t, got.stdout, c.says)
			require.NotContains(t, got.stdout+got.stderr, "\x1b")
			require.Equal(t, name != "nothing", got.code == 1, "verify finds whatever there is")
			require.Equal(t, code, runAside(t, "export", dir).code, "export")
			replay := []string{"replay", dir, "--redis", "redis://" + server.Addr(), "--stamp-ttl", "24h"}
			require.Equal(t, code, runAside(t, append(replay, "--dry-run")...).code, "a dry run")
			for _, again := range []string{"replay", "replay once more"} {
				if again != "replay" && c.once {
					break
				}
				got = runAside(t, replay...)
				require.Equal(t, code, got.code, "%s: %s%s", again, got.stdout, got.stderr)
				if c.missed {
					require.Contains(t, got.stderr, "something that was acknowledged may be missing")
				}
			}
		})
	}
}

// Half an answer that ends with 0 is taken for a whole one.
func TestACommandWhoseOutputIsNotAllWrittenFails(t *testing.T) {
	server := redistest.Start(t)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no /dev/full here")
	}
	defer full.Close()
	dir, url := written(t), "redis://"+server.Addr()
	for _, args := range [][]string{
		{"inspect", dir}, {"inspect", dir, "--json"}, {"inspect", dir, "user:42"}, {"verify", dir}, {"verify", dir, "--json"}, {"export", dir},
		{"replay", dir, "--redis", url, "--dry-run"}, {"replay", dir, "--redis", url, "--stamp-ttl", "24h"}, {"doctor", "--redis", url}, {"doctor", "--redis", url, "--json"},
		{"completion", "bash"}, {"version"}, {"--help"}, {"replay", "--help"},
	} {
		var stderr bytes.Buffer
		cmd := command(t, t.TempDir(), nil, args...)
		cmd.Stdout, cmd.Stderr = full, &stderr
		err := cmd.Run()
		var exit *exec.ExitError
		require.ErrorAs(t, err, &exit, "%v", args)
		require.Equal(t, 1, exit.ExitCode(), "%v: %s", args, stderr.String())
		require.Equal(t, 1, strings.Count(stderr.String(), "no space left on device"), "%v: %s", args, stderr.String())
	}
}

// filled makes a directory of n pending records, and as many loaded values that end after so long.
func filled(t *testing.T, n int, life time.Duration) (dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "fallback")
	d, err := fallback.Open(dir, fallback.Options{Sync: fallback.OS, FlushInterval: time.Hour, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for i := range n {
		at := stampAt(time.Now(), i)
		require.NoError(t, d.Put(t.Context(), fallback.Record{Op: fallback.OpSet, Key: fmt.Sprint("k", i), Value: "v", Expires: far, Stamp: at}))
		d.Fill(fallback.Record{Op: fallback.OpFill, Key: fmt.Sprint("loaded ", i), Value: "v", Expires: time.Now().Add(life).UnixMilli(), Stamp: at})
	}
	require.NoError(t, d.Close(t.Context()))
	return dir
}

func TestAReplayCountsWhatThereIsToReplay(t *testing.T) {
	server := redistest.Start(t)
	dir := filled(t, 3, time.Second)
	<-time.After(time.Second) // the loaded values end: they are not there to be replayed, and are not missing in what was
	got := runAside(t, "replay", dir, "--redis", "redis://"+server.Addr())
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "replayed 3 of 3 records in ")
	require.Equal(t, []string{"lock"}, namesIn(t, dir))
}

func namesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestAnInterruptedReplaySaysHowFarItCame(t *testing.T) {
	server := redistest.Start(t)
	dir := filled(t, 200, time.Hour) // none may end before it is counted
	cmd := command(t, t.TempDir(), nil, "replay", dir, "--redis", "redis://"+server.Addr(), "--rate", "20")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	require.NoError(t, cmd.Start())
	ctx := testContext(t)
	for len(server.Do("KEYS", "k*").([]any)) < 50 { // in some seconds: the answer to the first of them has come long ago
		require.NoError(t, ctx.Err())
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	require.Error(t, cmd.Wait())
	said := regexp.MustCompile(`interrupted\. (\d+) of 400 records were replayed, (\d+) are left`).FindStringSubmatch(stderr.String())
	require.Len(t, said, 3, stderr.String())
	done, _ := strconv.Atoi(said[1])
	left, _ := strconv.Atoi(said[2])
	require.Positive(t, done)
	require.Equal(t, 400, done+left)
}

// A replay that was killed has told the journal what Redis has, and not removed the files. Nobody
// else opens the directory: the next run removes them, be there something to replay or not.
func TestWhatAKilledReplayHasLeftGoesWithTheNext(t *testing.T) {
	server := redistest.Start(t)
	for settled := range 4 {
		dir := filled(t, 3, time.Second)
		fsys, err := vfs.Open(dir)
		require.NoError(t, err)
		j, _, err := journal.Open(fsys, "journal", journal.Options{}, nil)
		require.NoError(t, err)
		n := 0
		_, err = ops.Read(dir, func(r ops.Record) error {
			if r.Op != fallback.OpSet || n == settled {
				return nil
			}
			n++
			return j.Append(t.Context(), journal.Record{Op: journal.Settle, Key: r.Key, Stamp: r.Stamp})
		})
		require.NoError(t, err)
		require.NoError(t, j.Close(t.Context()))
		require.NoError(t, fsys.Close())
		require.Contains(t, runAside(t, "inspect", dir).stdout, fmt.Sprintf("pending     %d:", 3-settled))

		got := runAside(t, "replay", dir, "--redis", "redis://"+server.Addr())
		require.Equal(t, 0, got.code, got.stderr)
		require.Equal(t, []string{"lock"}, namesIn(t, dir), "%d of 3 were settled", settled)
	}
}

// On a narrow terminal each update of a bar would begin a new line.
func TestANarrowTerminalGetsANumberInOneLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, 1000)
		p.bar = progressbar.NewOptions(1000, progressbar.OptionSetWriter(&out))
		p.width = func() int { return 20 }
		for done := range 500 {
			p.set(done)
			time.Sleep(10 * time.Millisecond)
		}
		p.end(1000)
		require.Equal(t, 1, strings.Count(out.String(), "\n"), "its end")
		require.Less(t, strings.Count(out.String(), "\r"), 60)
		for _, line := range strings.Split(strings.TrimSpace(out.String()), "\r\x1b[K")[1:] {
			require.Less(t, len(line), 20)
		}
		require.True(t, strings.HasSuffix(out.String(), "replayed 1000 of 10\n"), "%q", out.String()[out.Len()-30:])
	})
}

func TestAServerThatTakesNoWritesIsToldFromOneThatDoesNotAnswer(t *testing.T) {
	server := redistest.Start(t)
	url := "redis://" + server.Addr()
	server.Do("CONFIG", "SET", "maxmemory-policy", "noeviction")
	server.Do("CONFIG", "SET", "maxmemory", "1mb")
	got := runAside(t, "doctor", "--redis", url)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stdout, "→ make room in Redis: raise maxmemory")
	require.NotContains(t, got.stdout, permissions, "nothing is to be permitted")
	server.Do("CONFIG", "SET", "maxmemory", "0")

	server.Do("REPLICAOF", "127.0.0.1", "1")
	got = runAside(t, "replay", filled(t, 1, time.Second), "--redis", url, "--wait", "1s")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, server.Addr()+" takes no writes, nothing was replayed: name the primary, or Sentinel with ?master_set=NAME: this is a replica")
}

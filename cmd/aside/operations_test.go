//go:build unix

package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/redistest"
)

// keptOperations makes a directory of a process that was killed: a counter and a MULTI of a hash whose
// files are there, a list whose replay has begun, more of it behind that, and a set; and one that
// Redis has refused, in quarantine.
func keptOperations(t *testing.T) (dir string) {
	t.Helper()
	source := filepath.Join(t.TempDir(), "source")
	o := fallback.Options{FlushInterval: time.Hour, MaxQueue: 1 << 30, Sync: fallback.OS, Logger: slog.New(slog.DiscardHandler)}
	of := func(key string, first, at int, commands ...string) fallback.Record {
		all := make([][]string, len(commands))
		for i, c := range commands {
			all[i] = strings.Fields(c)
		}
		return fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: stampOf(at), Slack: 1250, Value: deferred.Together(stampOf(first), stampOf(at), all).String()}
	}
	opened := func(key string, first int) fallback.Record {
		return fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: stampOf(first), Value: deferred.List{ID: stampOf(first), Opened: true}.String()}
	}
	d, err := fallback.Open(source, o)
	require.NoError(t, err)
	require.NoError(t, d.Put(t.Context(), of("visits", 1, 1, "INCRBY 5")))
	require.NoError(t, d.Put(t.Context(), of("user:42", 2, 3, "HSET name Ann", "HINCRBY logins 1")))
	require.NoError(t, d.Put(t.Context(), of("jobs", 4, 4, "LPUSH job-1")))
	require.NoError(t, d.Close(t.Context()))

	d, err = fallback.Open(source, o)
	require.NoError(t, err)
	require.NoError(t, d.Put(t.Context(), opened("jobs", 4)))
	require.NoError(t, d.Put(t.Context(), of("jobs", 4, 5, "LPUSH job-2")))
	require.NoError(t, d.Put(t.Context(), of("tags", 6, 6, "SADD red blue")))
	require.NoError(t, d.Put(t.Context(), opened("tags", 6)))
	require.NoError(t, d.Reject(of("name", 7, 7, "INCRBY 1"), errors.New("refused by Redis: ERR value is not an integer or out of range")))
	dir = filepath.Join(t.TempDir(), "fallback")
	require.NoError(t, os.CopyFS(dir, os.DirFS(source)))
	require.NoError(t, d.Close(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)) // process ids differ from run to run
	return dir
}

// Somebody who looks into the directory finds which keys have operations, of what kind, how many, since
// when, and whether Redis may have done some. What is in quarantine was acknowledged, and is missing.
func TestTheToolsKnowOperations(t *testing.T) {
	server := redistest.Start(t)
	dir, url := keptOperations(t), "redis://"+server.Addr()
	run := func(code int, args ...string) string {
		t.Helper()
		got := runAside(t, args...)
		require.Equal(t, code, got.code, "%s%s", got.stdout, got.stderr)
		return got.stdout
	}
	golden(t, "operations-inspect.txt", run(0, "inspect", dir), dir)
	golden(t, "operations-inspect.json", run(0, "inspect", dir, "--json"), dir)
	golden(t, "operations-inspect-key.txt", run(0, "inspect", dir, "jobs"), dir)
	golden(t, "operations-verify.txt", run(1, "verify", dir), dir)
	golden(t, "operations-export.txt", strings.ReplaceAll(run(1, "export", dir), "\r\n", "\n"), dir)
	golden(t, "operations-dry-run.txt", strings.ReplaceAll(run(1, "replay", dir, "--redis", url, "--dry-run"), server.Addr(), "ADDR"), dir)
	require.EqualValues(t, 0, server.Do("DBSIZE"))

	run(1, "replay", dir, "--redis", url, "--stamp-ttl", "24h")
	require.Equal(t, "5", server.Do("GET", "visits"))
	require.Equal(t, "1", server.Do("HGET", "user:42", "logins"))
	require.EqualValues(t, 0, server.Do("EXISTS", "jobs", "tags"), "nobody knows: these had been sent, and this Redis has no ledger")
	golden(t, "operations-verify-rejected.txt", run(1, "verify", dir), dir)
}

// A journal of many operations on one key is read as the library reads it, and in a time that does not
// grow with their square.
func TestAJournalOfManyOperationsIsReadAsTheyAre(t *testing.T) {
	source, dir := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "fallback")
	d, err := fallback.Open(source, fallback.Options{FlushInterval: time.Hour, MaxQueue: 1 << 30, Sync: fallback.OS, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	id, key := stampOf(1), "jobs"
	put := func(at int, slack int64, l deferred.List) {
		require.NoError(t, d.Put(t.Context(), fallback.Record{Op: fallback.OpOperations, Key: key, Stamp: stampOf(at), Slack: slack, Value: l.String()}))
	}
	for i := 1; i <= 300; i++ {
		l := deferred.Together(id, stampOf(i), [][]string{{"LPUSH", strings.Repeat("j", i%7)}, {"INCRBY", "1"}})
		put(i, int64(i%5), l)
		if i%100 == 0 {
			put(1, 0, deferred.List{ID: id, Opened: true})
		}
	}
	want, ok, err := d.Get(key)
	require.NoError(t, err)
	require.True(t, ok)
	require.NoError(t, os.CopyFS(dir, os.DirFS(source)))
	require.NoError(t, d.Close(t.Context()))
	for _, dir := range []string{dir, source} { // the journal; and the file
		var got []fallback.Record
		_, err = ops.Read(dir, func(r ops.Record) error {
			got = append(got, r.Record)
			return nil
		})
		require.NoError(t, err)
		require.Equal(t, []fallback.Record{want}, got)
	}
}

// What was kept of several keys as one stands in the journal as one record, and the tools see each key's part.
func TestATransactionInTheJournalIsReadAsItsKeysRecords(t *testing.T) {
	source, dir := filepath.Join(t.TempDir(), "source"), filepath.Join(t.TempDir(), "fallback")
	d, err := fallback.Open(source, fallback.Options{FlushInterval: time.Hour, MaxQueue: 1 << 30, Sync: fallback.OS, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	kept := []fallback.Record{
		{Op: fallback.OpOperations, Key: "jobs", Stamp: stampOf(2), Value: deferred.Together(stampOf(1), stampOf(2), [][]string{{"LPUSH", "a"}, {"LPUSH", "b"}}).String()},
		{Op: fallback.OpSet, Key: "job:b", Value: "waits", Expires: time.Now().Add(time.Hour).UnixMilli(), Stamp: stampOf(3)},
		{Op: fallback.OpDel, Key: "job:a", Stamp: stampOf(4)},
	}
	require.NoError(t, d.PutAll(t.Context(), kept...))
	more := fallback.Record{Op: fallback.OpOperations, Key: "jobs", Stamp: stampOf(5), Value: deferred.Together(stampOf(1), stampOf(5), [][]string{{"LPUSH", "c"}}).String()}
	require.NoError(t, d.Put(t.Context(), more))
	kept[0], _ = fallback.Merge(kept[0], more)
	require.NoError(t, os.CopyFS(dir, os.DirFS(source)))
	require.NoError(t, d.Close(t.Context()))
	for _, dir := range []string{dir, source} { // the journal; and the files
		var got []fallback.Record
		findings, err := ops.Read(dir, func(r ops.Record) error {
			got = append(got, r.Record)
			return nil
		})
		require.NoError(t, err)
		require.Empty(t, findings.Problems)
		require.ElementsMatch(t, kept, got)
	}
}

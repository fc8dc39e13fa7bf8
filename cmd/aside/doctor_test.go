package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

func TestDoctorTellsAGoodRedisFromABadOne(t *testing.T) {
	server := redistest.Start(t)
	checks := func(args ...string) (int, map[string]check) {
		t.Helper()
		got := runAside(t, append([]string{"doctor", "--json"}, args...)...)
		var out struct{ Checks []check }
		require.NoError(t, json.Unmarshal([]byte(got.stdout), &out), got.stdout+got.stderr)
		byName := map[string]check{}
		for _, c := range out.Checks {
			byName[c.Name] = c
			require.Equal(t, c.Verdict == fine, c.Remedy == "", "%+v", c)
		}
		return got.code, byName
	}
	dir := filepath.Join(t.TempDir(), "fallback")
	code, got := checks("--redis", "redis://"+server.Addr(), "--dir", dir)
	require.Equal(t, 0, code, "%+v", got)
	for _, name := range []string{"connection", "version", "maxmemory-policy", "clock", "probe", "tracking-table", "pushes", "scripts", "commands", "RESP3", "tracking", "folder"} {
		require.Equal(t, fine, got[name].Verdict, "%+v", got)
	}
	require.Contains(t, got["disk"].Detail, "synced in")
	require.NoDirExists(t, dir, "doctor makes nothing")
	// A stamp is left for a second. What the library leaves of its own in every database tells of a
	// flush, and ends by itself.
	eventually(t, "nothing is left in Redis", func() bool {
		return !slices.ContainsFunc(server.Do("KEYS", "*").([]any), func(key any) bool { return !strings.HasPrefix(fmt.Sprint(key), "aside:probe") })
	})

	require.NoError(t, os.MkdirAll(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o755))
	writeFile(t, dir, "other", "")
	server.Do("CONFIG", "SET", "maxmemory", "100mb")
	code, got = checks("--redis", "redis://"+server.Addr(), "--dir", dir)
	require.Equal(t, 0, code, "warnings are no errors: %+v", got)
	for _, name := range []string{"maxmemory-policy", "folder", "contents"} {
		require.Equal(t, warning, got[name].Verdict, "%+v", got)
	}

	// A full tracking table costs hits.
	reader, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{server.Addr()}, ClientTrackingOptions: []string{"OPTOUT"}})
	require.NoError(t, err)
	server.Do("CONFIG", "SET", "tracking-table-max-keys", 10)
	for i := range 10 {
		_ = reader.Do(t.Context(), reader.B().Get().Key(fmt.Sprint("k", i)).Build()).Error()
	}
	_, got = checks("--redis", "redis://"+server.Addr())
	require.Equal(t, warning, got["tracking-table"].Verdict, "%+v", got)
	reader.Close()

	server.Do("ACL", "SETUSER", "app", "on", ">pw", "~app:*", "+@all")
	code, got = checks("--redis", "redis://app:pw@"+server.Addr(), "--prefix", "app:")
	require.Equal(t, 1, code)
	require.Equal(t, failure, got["scripts"].Verdict, "%+v", got)
	require.Equal(t, warning, got["probe"].Verdict)
	require.Contains(t, got["probe"].Remedy, "+pexpire")
	require.Equal(t, fine, got["tracking"].Verdict)
	// What docs/OPERATIONS.md says is enough.
	rules := strings.Fields(`ACL SETUSER enough on >pw resetchannels -@all ~app:* ~aside:stamps:* ~aside:probe* +ping +time +info +client|tracking +client|caching +cluster|slots ` +
		`+eval +evalsha +get +getex +mget +set +psetex +setrange +getrange +pttl +pexpire +exists +del +unlink +hmget +hset +hdel +hscan +pexpireat`)
	arguments := make([]any, len(rules))
	for i, rule := range rules {
		arguments[i] = rule
	}
	if _, err := server.TryDo(arguments...); err == nil { // Redis 6.0 knows less
		code, got = checks("--redis", "redis://enough:pw@"+server.Addr(), "--prefix", "app:")
		require.Equal(t, 0, code, "%+v", got)
		require.Equal(t, "not permitted: +setnx +incr +incrby +decr +decrby +append +strlen +type +persist +scan +client|id", got["commands"].Detail)
	}

	code, got = checks("--redis", "redis://nobody:wrong@"+server.Addr())
	require.Equal(t, 1, code)
	require.Equal(t, failure, got["connection"].Verdict)
	require.Contains(t, got["connection"].Remedy, "give the right user and password")
	server.Kill()
	code, got = checks("--redis", "redis://"+server.Addr())
	require.Equal(t, 1, code)
	require.Contains(t, got["connection"].Remedy, "start Redis")
}

func TestDoctorFindsThatPushesDoNotArriveOverRESP2(t *testing.T) {
	server := redistest.Start(t)
	got := runAside(t, "doctor", "--redis", "redis://"+server.Addr()+"?protocol=2")
	require.Equal(t, 0, got.code, got.stdout)
	require.Contains(t, got.stdout, "warning  RESP3              switched off in the url\n")
	require.Contains(t, got.stdout, "\n0 errors, 1 warning\n")
}

func TestDoctorSaysThatNothingCanBeCached(t *testing.T) {
	for _, hidden := range []string{"EVALSHA", "TIME"} {
		server := redistest.Start(t, redistest.WithArgs("--rename-command", hidden, "HIDDEN"))
		got := runAside(t, "doctor", "--redis", "redis://"+server.Addr(), "--timeout", "500ms")
		require.Equal(t, 1, got.code)
		require.Contains(t, got.stdout, "nothing can be cached", hidden)
		require.Contains(t, got.stdout, "+evalsha", hidden)
	}
}

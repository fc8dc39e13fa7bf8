package script

import (
	"fmt"
	"io/fs"
	"math"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

var all = []*Script{
	ReadOrLock, ReadOrLockMany, ReplaceOrLock, Read, Fill, FillMany, Renew, Release, ReleaseFailed,
	Refresh, Refreshed, RefreshFailed, Group,
	Set, SetBare, Del, DelBare, Touch, Expire, ExpireBare, Mark, Stamp, Nothing, Replay, ReplayBare, Ledger, Operate, Time, Probe, Who, Made, Withheld,
	Explain,
}

func TestEachFileIsOneScript(t *testing.T) {
	names, err := fs.Glob(files, "*.lua")
	require.NoError(t, err)
	var of []string
	for _, s := range all {
		of = append(of, s.name+".lua")
	}
	require.ElementsMatch(t, names, of)
}

// A script's head tells what callers give it, what they get, and whether it may be run twice.
func TestEachFileHasAHead(t *testing.T) {
	for _, s := range all {
		source, err := files.ReadFile(s.name + ".lua")
		require.NoError(t, err)
		head, _, ok := strings.Cut(string(source), "\n\n")
		require.True(t, ok, "%s: the head ends with an empty line", s.name)
		lines := strings.Split(head, "\n")
		if strings.HasPrefix(lines[0], includes) {
			lines = lines[1:]
		}
		require.Regexp(t, `^-- [A-Z]`, lines[0], "%s: what it does", s.name)
		for _, part := range []string{"KEYS:       ", "ARGV:       ", "Answer:     ", "Second run: "} {
			require.Contains(t, head, "\n-- "+part, "%s", s.name)
		}
	}
}

func TestEachPieceIsUsedAndSaysWhatItDefines(t *testing.T) {
	pieces, err := fs.Glob(files, "lib/*.lua")
	require.NoError(t, err)
	require.NotEmpty(t, pieces)
	var heads strings.Builder
	err = fs.WalkDir(files, ".", func(name string, _ fs.DirEntry, err error) error {
		if source, _ := files.ReadFile(name); strings.HasPrefix(string(source), includes) {
			first, _, _ := strings.Cut(string(source), "\n")
			heads.WriteString(first + " ")
		}
		return err
	})
	require.NoError(t, err)
	for _, name := range pieces {
		require.Contains(t, heads.String(), " "+strings.TrimSuffix(path.Base(name), ".lua"), "%s is included nowhere", name)
		source, err := files.ReadFile(name)
		require.NoError(t, err)
		for _, defined := range regexp.MustCompile(`(?m)^local function (\w+)`).FindAllStringSubmatch(string(source), -1) {
			if defined[1] != "digits" && defined[1] != "padded" {
				require.Regexp(t, `(?m)^-- `+defined[1]+`: `, string(source), "%s", name)
			}
		}
	}
}

func TestConstantsHaveTheirValues(t *testing.T) {
	require.Contains(t, Fill.Text(), "tonumber(ttl) > 3153600000000 then")
	capitals := regexp.MustCompile(`\b[A-Z]+_[A-Z_]+\b`)
	for _, s := range all {
		require.NotRegexp(t, capitals, strings.ReplaceAll(s.Text(), "redis.REDIS_VERSION_NUM", ""), "%s", s.name) // which is Redis's own
	}
}

func TestMillisecondsAreRoundedUp(t *testing.T) {
	for d, want := range map[time.Duration]int64{0: 0, 1: 1, time.Millisecond - 1: 1, time.Millisecond: 1, time.Millisecond + 1: 2, time.Hour: 3_600_000, math.MaxInt64: 9_223_372_036_855} {
		require.Equal(t, want, Milliseconds(d), "%d", d)
	}
}

func TestCommentsAreNotSent(t *testing.T) {
	for _, s := range all {
		require.NotContains(t, s.Text(), "-- ", "%s: a comment stands on a line of its own", s.name)
		require.NotContains(t, s.Text(), "\n\n", "%s", s.name)
	}
	require.Equal(t, "return redis.call('TIME')\n", Time.Text())
}

func TestAPieceIsPutInFrontOnce(t *testing.T) {
	for _, piece := range []string{"local call = redis.call", "local function clock(", "local function stampOf(", "local function put("} {
		require.Equal(t, 1, strings.Count(Replay.Text(), piece), piece)
	}
	require.Less(t, strings.Index(Replay.Text(), "local function put("), strings.Index(Replay.Text(), "local function replay("))
}

func TestRedisKnowsScriptsByTheirSHA(t *testing.T) {
	server := redistest.Start(t)
	for _, s := range all {
		require.Equal(t, s.SHA(), server.Do("SCRIPT", "LOAD", s.Text()), "%s", s.name)
	}
}

// However many large values a batch of reads finds, it copies one of them too many at most: of those that follow it asks
// for the length alone.
func TestLargeValuesOfABatchAreNotCopiedToBeRefused(t *testing.T) {
	server := redistest.Start(t)
	keys := []string{"small", "large", "larger", "largest", "nothing"}
	for i, key := range keys[:4] {
		server.Do("SET", key, strings.Repeat("v", 10+100*i))
	}
	server.Do("CONFIG", "RESETSTAT")
	run := []any{"EVAL", ReadOrLockMany.Text(), strconv.Itoa(len(keys))}
	for _, arg := range append(keys, "marker", "60000", "50") {
		run = append(run, arg)
	}
	answer := server.Do(run...)
	require.Equal(t, "[vvvvvvvvvv -1 2 110 2 210 2 310 1 0]", fmt.Sprint(answer))
	lengths := "4" // SETRANGE of nothing tells it
	if fmt.Sprint(server.Do("EVAL", "return redis.REDIS_VERSION_NUM and 1 or 0", "0")) == "1" {
		lengths = "2"
	}
	require.Regexp(t, "cmdstat_setrange:calls="+lengths+",", server.Do("INFO", "commandstats"))
}

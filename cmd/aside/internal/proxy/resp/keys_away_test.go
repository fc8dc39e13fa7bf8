package resp

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest"
)

func TestKeysThatAreKnownAreListedInAnOutage(t *testing.T) {
	var log lockedBuilder
	server, between, c, addr := cutOff(t, Options{KnownKeys: true, LocalAnswers: true, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	p := dial(t, addr)
	server.Do("MSET", "read", "1", "read:deleted", "1", "unheard-of", "1")
	server.Do("HSET", "h", "f", "1")
	for _, key := range []string{"read", "read:deleted"} {
		eventually(t, "Redis is asked", func() bool { return p.do("GET", key) == "$1" })
	}
	eventually(t, "it is read", func() bool { return p.do("HGET", "h", "f") == "$1" })
	between.Refuse()
	awaitMode(t, c, aside.Degraded)
	for _, text := range []string{
		"DEL read:deleted", "SET set 1", "SET was 1", "DEL was", "SET short 1 PX 20", "SET over 1", "EXPIREAT over 1", "DEL list", "RPUSH list a", "HSET hash f 1", "SADD members a", "INCR n",
	} {
		require.NotContains(t, p.do(line(text)...), "-", text)
	}
	eventually(t, "it has expired", func() bool { return p.do("EXISTS", "short") == ":0" })

	all := []string{"hash", "list", "members", "n", "read", "set"}
	sorted := func(keys []string) []string {
		slices.Sort(keys)
		return keys
	}
	require.Equal(t, all, sorted(listed(p.do("KEYS", "*"))))
	require.Equal(t, ":6", p.do("DBSIZE"))
	require.Equal(t, all, sorted(scanned(p)))
	require.Equal(t, all, sorted(scanned(p, "COUNT", "1")))
	require.Equal(t, []string{"read", "set"}, sorted(listed(p.do("KEYS", "[rs]e*"))))
	require.Equal(t, []string{"list"}, scanned(p, "MATCH", "l?st", "COUNT", "2"))
	require.Equal(t, []string{"hash"}, scanned(p, "TYPE", "HASH"))
	require.Equal(t, []string{"members"}, scanned(p, "type", "set"))
	require.Empty(t, scanned(p, "TYPE", "zset"))
	require.Equal(t, "*0", p.do("KEYS", "aside:*"))
	require.Contains(t, all, strings.TrimPrefix(p.do("RANDOMKEY"), "$"))
	for text, want := range map[string]string{
		"SCAN x": "-ERR invalid cursor", "SCAN 0 COUNT": "-ERR syntax error", "SCAN 0 COUNT x": "-ERR value is not an integer or out of range", "SCAN 0 COUNT 0": "-ERR syntax error",
		"SCAN 0 FOO 1": "-ERR syntax error",
	} {
		require.Equal(t, want, p.do(line(text)...), text)
	}

	require.Regexp(t, `aside_answers_in_part:[1-9]\d`, p.do("INFO", "aside"), "they are counted")
	require.Equal(t, 1, strings.Count(log.String(), "there may be more"), "and told, once a minute")

	cursor, _, _ := strings.Cut(listed(p.do("SCAN", "0", "COUNT", "2"))[0], " ")
	require.NotEqual(t, "0", cursor)
	require.Contains(t, p.do("SCAN", "5"), "*2 $", "of Redis's own cursors nothing is known: it begins anew")
	back(t, between, c)
	require.Contains(t, p.do("SCAN", cursor), "-ASIDEDEGRADED this SCAN has begun while Redis was away")
	eventually(t, "Redis is asked", func() bool { return slices.Contains(listed(p.do("KEYS", "*")), "unheard-of") })
}

// Keys that come and go do not make a scan miss those that stay.
func TestAScanInAnOutageReturnsWhatStaysKnown(t *testing.T) {
	store, _ := newStore(t, unreachable, t.TempDir())
	_, addr := serve(t, store, Options{KnownKeys: true})
	p := dial(t, addr)
	require.Contains(t, p.do("RANDOMKEY"), "-ASIDEDEGRADED", "that there is none, nobody knows")
	require.Equal(t, "*0", p.do("KEYS", "*"))
	require.Equal(t, ":0", p.do("DBSIZE"))
	for i := range 100 {
		require.Equal(t, "+OK", p.do("SET", fmt.Sprint("stays", i), "1"))
	}
	random := rand.New(rand.NewPCG(1, 2))
	seen := make(map[string]int)
	for cursor := "0"; ; {
		page := listed(p.do("SCAN", cursor, "COUNT", "3"))
		for _, key := range page[1:] {
			seen[key]++
		}
		if cursor, _, _ = strings.Cut(page[0], " "); cursor == "0" {
			break
		}
		switch n := random.IntN(20); n % 3 {
		case 0:
			p.do("SET", fmt.Sprint("comes", n), "1")
			scanned(p) // another one begins anew
		case 1:
			p.do("DEL", fmt.Sprint("comes", n))
		}
	}
	for i := range 100 {
		require.Equal(t, 1, seen[fmt.Sprint("stays", i)], i)
	}
}

// Without a setting they are refused, and an application is told so before.
func TestAnApplicationIsToldWhatBecomesOfListsOfKeys(t *testing.T) {
	for known, want := range map[bool]Outage{false: Refused, true: Listed} {
		server := redistest.Start(t)
		store, _ := newStore(t, server.Addr(), t.TempDir())
		s, addr := serve(t, store, Options{CheckApp: true, KnownKeys: known})
		p := dial(t, addr)
		eventually(t, "it is well, and counts", func() bool {
			p.do("DBSIZE")
			return len(s.Checked()) == 1
		})
		require.Equal(t, want, s.Checked()[0].Outage)
	}
}

// What Redis says of a pattern and a key is what we say.
func TestPatternsMatchAsInRedis(t *testing.T) {
	server := redistest.Start(t)
	random := rand.New(rand.NewPCG(3, 4))
	text := func(from string, most int) string {
		b := make([]byte, 1+random.IntN(most))
		for i := range b {
			b[i] = from[random.IntN(len(from))]
		}
		return string(b)
	}
	keys := []string{"hello", "\x00\xff", "-", "]", "[", "^", "\\", "a-b", "\n"}
	for range 120 {
		keys = append(keys, text("aabc-]^\\", 5))
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	for _, key := range keys {
		server.Do("SET", key, "1")
	}
	patterns := []string{"*", "h?llo", "h[^x]llo", "h[a-f]llo", "h[f-a]llo", "h\\ello", "**", "?", "[", "[^", "[]", "[^]", "\\", "a\\", "[a", "[\\]]", "[a-", "[-a]", "\x00*"}
	for range 3000 {
		patterns = append(patterns, text("aabc**??[[]]^-\\", 7))
	}
	for _, pattern := range patterns {
		var got, want []string
		for _, key := range server.Do("KEYS", pattern).([]any) {
			want = append(want, key.(string))
		}
		for _, key := range keys {
			if matches(pattern, key) {
				got = append(got, key)
			}
		}
		slices.Sort(want)
		require.Equal(t, want, got, "%q", pattern)
	}
	require.False(t, matches(strings.Repeat("*a", 500), strings.Repeat("a", 1000)+"b"), "in no time")
}

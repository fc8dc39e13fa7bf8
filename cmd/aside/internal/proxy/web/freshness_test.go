package web

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

func TestCacheControlIsReadAsItsRFCsHaveIt(t *testing.T) {
	for text, want := range map[string]demand{
		"":                                 {-1, -1, false},
		"no-transform, private=\"a\"":      {-1, -1, false},
		"no-cache":                         {0, -1, false},
		"max-age=0":                        {0, -1, false},
		"Max-Age=90":                       {90 * time.Second, -1, false},
		"max-age=90, no-cache":             {0, -1, false},
		"max-age=90,max-age=30":            {30 * time.Second, -1, false},
		"only-if-cached,max-stale":         {-1, longestAge * time.Second, true},
		"max-stale=5 , stale-if-error=60":  {-1, time.Minute, false},
		"max-age=99999999999999999999999":  {longestAge * time.Second, -1, false},
		"stale-if-error=\"7\", x, ,=,max-": {-1, 7 * time.Second, false},

		`private="a, max-age=soon", max-age=7`:          {7 * time.Second, -1, false},
		`ext="a\", only-if-cached, \\", only-if-cached`: {-1, -1, true},
		`ext="no end, max-age=soon`:                     {-1, -1, false},
	} {
		got, err := demandOf([]string{text})
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"max-age", "max-age=", "max-age=soon", "max-age=-1", "stale-if-error", "max-stale=1.5"} {
		_, err := demandOf([]string{"only-if-cached", text})
		name, _, _ := strings.Cut(text, "=")
		require.ErrorContains(t, err, "Cache-Control: "+name+" is", text)
	}
}

func (f *front) get(path, cacheControl string) reply {
	f.t.Helper()
	return f.send("GET", path, "", "Cache-Control", cacheControl)
}

func TestAStaleValueIsForThoseWhoTakeIt(t *testing.T) {
	f := newFront(t, setup{web: Options{Grace: time.Hour}})
	require.Equal(t, http.StatusNoContent, f.send("PUT", "/v1/keys/k?ttl=90", "v").StatusCode)
	require.InDelta(t, 3690, f.redis.Do("TTL", "k"), 10, "it lives for a grace longer")
	r := f.get("/v1/keys/k", "max-stale")
	require.Regexp(t, `^aside; hit; detail=(memory|redis); ttl=(90|8\d)$`, r.Header.Get("Cache-Status"), "a ttl counts without the grace")

	f.redis.Do("PEXPIRE", "k", "3550000") // 50 s into its grace
	fresh := f.get("/v1/keys/k", "no-cache")
	isProblem(t, fresh, problemNotFound)
	require.Equal(t, staleStatus, fresh.Header.Get("Cache-Status"))
	for _, takes := range []string{"max-stale", "max-stale=300", "stale-if-error=300"} {
		r = f.get("/v1/keys/k", takes)
		require.Equal(t, "v", r.body, takes)
		require.Regexp(t, `^aside; hit; detail=(memory|redis)-stale; ttl=-[56]\d$`, r.Header.Get("Cache-Status"), takes)
	}
	for _, less := range []string{"", "max-stale=30", "stale-if-error=0"} {
		isProblem(t, f.get("/v1/keys/k", less), problemNotFound)
	}
	require.JSONEq(t, `{"encoding":"utf8","values":{},"missing":["k"]}`, f.send("POST", "/v1/mget", `{"keys":["k"]}`).body)

	f.put("forever", "v")
	require.Equal(t, "v", f.get("/v1/keys/forever", "").body, "what does not expire is fresh")
}

func TestOnlyIfCachedIsAnsweredWithAGatewayTimeout(t *testing.T) {
	f := newFront(t, setup{})
	r := f.get("/v1/keys/k", "only-if-cached")
	isProblem(t, r, problemNotCached)
	require.Equal(t, "aside; fwd=miss", r.Header.Get("Cache-Status"))
	f.put("k", "v")
	require.Equal(t, "v", f.get("/v1/keys/k", "only-if-cached").body)
	isProblem(t, f.get("/v1/keys/k", "max-age=soon"), problemInvalid)
}

func TestMaxAgeHasRedisAsked(t *testing.T) {
	f := newFront(t, setup{})
	f.put("k", "v")
	eventually(t, "memory has it", func() bool { return strings.Contains(f.get("/v1/keys/k", "").Header.Get("Cache-Status"), "memory") })
	require.Contains(t, f.get("/v1/keys/k", "max-age=3600").Header.Get("Cache-Status"), "memory")
	for _, asks := range []string{"no-cache", "max-age=0"} {
		require.Contains(t, f.get("/v1/keys/k", asks).Header.Get("Cache-Status"), "detail=redis", asks)
	}
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	isProblem(t, f.get("/v1/keys/k", "max-age=0"), problemDegraded)
	r := f.get("/v1/keys/k", "max-age=0, stale-if-error=60")
	require.Equal(t, "v", r.body, "an error of Redis is one")
	require.Contains(t, r.Header.Get("Cache-Status"), "memory")
}

package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

func TestAValueIsPutReadAndDeleted(t *testing.T) {
	f := newFront(t, setup{})
	r := f.put("user:42", "Ada")
	require.Equal(t, etag("Ada", ""), r.Header.Get("ETag"))
	require.Equal(t, "aside; fwd=method", r.Header.Get("Cache-Status"))
	require.Equal(t, "Ada", f.redis.Do("GET", "user:42"), "Redis has it as it was put")
	for _, path := range []string{"/get?key=user:42", "/get?key=user%3A42", "/v1/keys/user:42", "/v1/keys/user%3A42"} {
		r := f.send("GET", path, "")
		require.Equal(t, http.StatusOK, r.StatusCode, path)
		require.Equal(t, "Ada", r.body)
		require.Equal(t, "3", r.Header.Get("Content-Length"))
		require.Equal(t, "application/octet-stream", r.Header.Get("Content-Type"))
		require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
		require.Equal(t, "default-src 'none'; sandbox", r.Header.Get("Content-Security-Policy"))
		require.Equal(t, "no-cache", r.Header.Get("Cache-Control"))
		require.Equal(t, etag("Ada", ""), r.Header.Get("ETag"))
		require.Empty(t, r.Header.Get(modeHeader))
		seconds, err := strconv.Atoi(r.Header.Get("Age"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, seconds, 0)
		require.Less(t, seconds, 60)

		head := f.send("HEAD", path, "")
		require.Empty(t, head.body)
		for _, name := range []string{"Content-Length", "Content-Type", "ETag", "Cache-Control"} {
			require.Equal(t, r.Header.Get(name), head.Header.Get(name), name)
		}
	}
	require.Equal(t, http.StatusNoContent, f.send("DELETE", "/v1/keys/user:42", "").StatusCode)
	for _, path := range []string{"/get?key=user:42", "/v1/keys/user:42"} {
		r := f.send("GET", path, "")
		isProblem(t, r, problemNotFound)
		require.Equal(t, "aside; fwd=miss", r.Header.Get("Cache-Status"))
		require.Equal(t, http.StatusNotFound, f.send("HEAD", path, "").StatusCode)
	}
	require.Equal(t, http.StatusNoContent, f.send("DELETE", "/v1/keys/user:42", "").StatusCode, "deleting twice is fine")
}

func TestTheLibrarysOwnKeysAreNobodyElses(t *testing.T) {
	f := newFront(t, setup{})
	f.put("k", "v")
	stamp := f.redis.Do("KEYS", "aside:stamps:*").([]any)[0].(string)
	before := f.redis.Do("HGETALL", stamp)
	for _, key := range []string{stamp, "aside:probe"} {
		for _, method := range []string{"GET", "PUT", "DELETE"} {
			r := f.send(method, "/v1/keys/"+url.PathEscape(key), "x")
			isProblem(t, r, problemInvalid)
			require.Contains(t, r.body, proxy.ErrReserved.Error())
		}
		isProblem(t, f.send("GET", "/get?key="+url.QueryEscape(key), ""), problemInvalid)
		isProblem(t, f.send("POST", "/v1/mget", `{"keys": ["k", "`+key+`"]}`), problemInvalid)
	}
	require.Equal(t, before, f.redis.Do("HGETALL", stamp))
}

func TestTheTierThatAnsweredIsNamed(t *testing.T) {
	f := newFront(t, setup{})
	f.redis.Do("SET", "k", "v", "EX", "100")
	f.redis.Do("SET", "for ever", "v")
	first := f.send("GET", "/get?key=k", "").Header.Get("Cache-Status")
	require.Regexp(t, `^aside; hit; detail=redis; ttl=(9\d|100)$`, first)
	require.Regexp(t, `^aside; hit; detail=memory; ttl=(9\d|100)$`, f.send("GET", "/get?key=k", "").Header.Get("Cache-Status"))
	require.Equal(t, "aside; hit; detail=redis", f.send("GET", "/get?key=for+ever", "").Header.Get("Cache-Status"))
	require.Equal(t, "aside; hit; detail=memory", f.send("GET", "/get?key=for%20ever", "").Header.Get("Cache-Status"))
}

func TestTheContentTypeIsKept(t *testing.T) {
	f := newFront(t, setup{})
	f.put("json", `{"a":1}`, "Content-Type", "application/json; charset=utf-8")
	require.Equal(t, "application/json; charset=utf-8", f.send("GET", "/v1/keys/json", "").Header.Get("Content-Type"))
	r := f.put("json", "x")
	require.Equal(t, etag("x", ""), r.Header.Get("ETag"))
	require.Equal(t, "application/octet-stream", f.send("GET", "/v1/keys/json", "").Header.Get("Content-Type"), "it goes with its value")
	f.put("page", "<script>alert(1)</script>", "Content-Type", "text/html")
	r = f.send("GET", "/v1/keys/page", "")
	require.Equal(t, "text/html", r.Header.Get("Content-Type"))
	require.Contains(t, r.Header.Get("Content-Security-Policy"), "sandbox", "it shares the status page's origin")
}

func TestATTLIsSecondsOrADuration(t *testing.T) {
	f := newFront(t, setup{})
	for _, c := range []struct {
		query    string
		from, to int64 // milliseconds; -1: no expiry
	}{
		{"", -1, -1}, {"?ttl=", -1, -1}, {"?ttl=0", -1, -1}, {"?ttl=0s", -1, -1},
		{"?ttl=90", 60_000, 90_000}, {"?ttl=90.5", 60_000, 90_500}, {"?ttl=1m30s", 60_000, 90_000}, {"?ttl=1.5h", 5_000_000, 5_400_000},
	} {
		r := f.send("PUT", "/v1/keys/ttl"+c.query, "v")
		require.Equal(t, http.StatusNoContent, r.StatusCode, "%s: %s", c.query, r.body)
		left := f.redis.Do("PTTL", "ttl").(int64)
		status := f.send("GET", "/v1/keys/ttl", "").Header.Get("Cache-Status")
		if c.from < 0 {
			require.Equal(t, int64(-1), left, c.query)
			require.NotContains(t, status, "ttl", c.query)
			continue
		}
		require.GreaterOrEqual(t, left, c.from, c.query)
		require.LessOrEqual(t, left, c.to, c.query)
		require.Contains(t, status, "; ttl=", c.query)
	}
	for query, why := range map[string]string{
		"?ttl=-1": "negative", "?ttl=-1s": "negative", "?ttl=-1e30": "negative", "?ttl=soon": "neither a number of seconds nor a duration",
		"?ttl=NaN": "neither", "?ttl=1us": "less than a millisecond", "?ttl=1e-12": "less than a millisecond", "?ttl=1e12": "longer than 100 years",
		"?ttl=+Inf": "neither", "?ttl=%2BInf": "longer",
		"?ttl=1&ttl=2": "ttl: is given 2 times", "?tll=1": `"tll" is not known`, "?ttl=1;x": "query", "?ttl=%zz": "query",
	} {
		detail := isProblem(t, f.send("PUT", "/v1/keys/refused"+query, "v"), problemInvalid)
		require.Contains(t, detail, why, query)
	}
	isProblem(t, f.send("GET", "/v1/keys/refused", ""), problemNotFound)
	isProblem(t, f.send("DELETE", "/v1/keys/ttl?ttl=1", ""), problemInvalid)
}

func TestEntityTagsAreCompared(t *testing.T) {
	f := newFront(t, setup{})
	f.put("k", "v")
	tag := etag("v", "")
	for _, c := range []struct {
		name, value string
		want        int
	}{
		{"If-None-Match", tag, 304}, {"If-None-Match", "W/" + tag, 304}, {"If-None-Match", "*", 304}, {"If-None-Match", `"a,b", ` + tag, 304},
		{"If-None-Match", `"a" , W/"b",` + tag, 304}, {"If-None-Match", `"a"`, 200},
		{"If-None-Match", strings.Trim(tag, `"`), 200}, {"If-None-Match", `"`, 200}, {"If-None-Match", "", 200},
		{"If-Match", tag, 200}, {"If-Match", "*", 200}, {"If-Match", `"a", ` + tag, 200}, {"If-Match", `"a"`, 412}, {"If-Match", "W/" + tag, 412},
	} {
		for _, method := range []string{"GET", "HEAD"} {
			r := f.send(method, "/v1/keys/k", "", c.name, c.value)
			require.Equal(t, c.want, r.StatusCode, "%s %s: %s", method, c.name, c.value)
			require.Equal(t, tag, r.Header.Get("ETag"))
			if c.want == 304 {
				require.Empty(t, r.body)
				require.Empty(t, r.Header.Get("Content-Type"))
			}
		}
	}
	r := f.send("GET", "/v1/keys/k", "", "If-None-Match", `"a"`, "If-None-Match", tag)
	require.Equal(t, http.StatusNotModified, r.StatusCode, "a list may have several lines")
	require.NotEqual(t, tag, etag("v\x00", ""))
	require.NotEqual(t, etag(strings.Repeat("a", 4096), ""), etag(strings.Repeat("a", 4097), ""))

	for _, header := range []string{"If-Match", "If-None-Match", "If-Unmodified-Since", "If-Modified-Since"} {
		for _, method := range []string{"PUT", "DELETE"} {
			detail := isProblem(t, f.send(method, "/v1/keys/k", "w", header, "*"), problemConditional)
			require.Contains(t, detail, header)
		}
	}
	f.holds("k", "v")
}

func TestAnyKeyCanBeNamed(t *testing.T) {
	f := newFront(t, setup{})
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for i, key := range []string{
		"a", "a b", "a+b", "a/b", "/", "//", "/a//b/", "a%2Fb", "%", "%%41", "?", "a?b=c", "#", "a#b", "&;=", "é", "日本", "🙂", "\x00",
		"a\x00b", "\xff\xfe",
		".", "..", "./a", "../../etc/passwd", "a/./b/../c", string(every), strings.Repeat("k", 1<<10), " ", "\r\n", "key", "v1/keys/a", "*", `"\`,
	} {
		value := fmt.Sprint("value ", i)
		f.put(key, value)
		f.holds(key, value)
		require.Equal(t, value, f.redis.Do("GET", key), "%q", key)
	}
	for path, key := range map[string]string{ // spellings of others
		"/v1/keys/a/b": "a/b", "/v1/keys//": "/", "/v1/keys///a": "//a", "/v1/keys/a%2fb": "a/b", "/v1/keys/a%2Fb/c": "a/b/c", "/v1/keys/a%252Fb": "a%2Fb",
		"/v1/keys/../a": "../a", "/v1/keys/./": "./", "/v1/keys/a/../b": "a/../b", "/v1/keys/%2e%2e": "..", "/v1/keys/a+b": "a+b",
		"/v1/keys/a;b": "a;b", "/v1/keys/a&b=c": "a&b=c",
		"/v1/keys/%00": "\x00", "/v1/keys/%FF%fe": "\xff\xfe", "/v1/keys/é": "é", "/v1/keys/a:b@c,d$e!f*g'(h)": "a:b@c,d$e!f*g'(h)", "/v1/keys/": "",
		"/get?key=a+b": "a b", "/get?key=a%2Bb": "a+b", "/get?key=a/b": "a/b", "/get?key=a%26b": "a&b", "/get?key=%00": "\x00",
		"/get?key=%C3%A9": "é", "/get?key==": "=", "/get?key=a=b": "a=b", "/get?key=..": "..",
	} {
		r := f.raw("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		if key == "" {
			require.Contains(t, isProblem(t, r, problemInvalid), "key: is empty")
			continue
		}
		require.NotContains(t, []int{301, 302, 307, 308}, r.StatusCode, path)
		f.put(key, "v:"+path)
		r = f.raw("GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
		require.Equal(t, http.StatusOK, r.StatusCode, "%s: %s", path, r.body)
		require.Equal(t, "v:"+path, r.body)
	}
	r := f.raw("GET http://localhost" + KeyPath("a") + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, r.StatusCode, "an address in absolute form")
}

func TestEachMistakeHasItsStatus(t *testing.T) {
	f := newFront(t, setup{web: Options{MaxValueBytes: 100, MaxKeyBytes: 10, MaxKeys: 3}})
	for _, c := range []struct {
		method, path, body string
		headers            []string
		want               problemKind
		detail             string
	}{
		{"GET", "/nothing", "", nil, problemNoSuchPath, "/nothing"},
		{"GET", "/v1", "", nil, problemNoSuchPath, "/v1"},
		{"GET", "/v1/keys", "", nil, problemNoSuchPath, "/v1/keys"},
		{"GET", "/get/", "", nil, problemNoSuchPath, "/get/"},
		{"GET", "//", "", nil, problemNoSuchPath, "//"},
		{"GET", "/debug/pprof/", "", nil, problemNoSuchPath, "Pprof"},
		{"GET", "/get", "", nil, problemInvalid, "key: is missing"},
		{"GET", "/get?key=", "", nil, problemInvalid, "key: is empty"},
		{"GET", "/get?key=a&key=b", "", nil, problemInvalid, "given 2 times"},
		{"GET", "/get?key=a&x=b", "", nil, problemInvalid, `"x" is not known`},
		{"GET", "/get?key=%zz", "", nil, problemInvalid, "%XX"},
		{"GET", "/get?key=12345678901", "", nil, problemKeyTooLong, "11 bytes, at most 10"},
		{"GET", "/v1/keys/12345678901", "", nil, problemKeyTooLong, "11 bytes, at most 10"},
		{"PUT", "/v1/keys/12345678901", "v", nil, problemKeyTooLong, "11 bytes, at most 10"},
		{"GET", "/v1/keys/a?ttl=1", "", nil, problemInvalid, "leave"},
		{"POST", "/get?key=a", "", nil, problemMethod, "GET, HEAD"},
		{"POST", "/v1/keys/a", "", nil, problemMethod, "GET, HEAD, PUT, DELETE"},
		{"PATCH", "/v1/keys/a", "", nil, problemMethod, "PATCH"},
		{"OPTIONS", "/v1/keys/a", "", nil, problemMethod, "OPTIONS"},
		{"GET", "/v1/mget", "", nil, problemMethod, "POST"},
		{"POST", "/", "", nil, problemMethod, "GET, HEAD"},
		{"POST", "/readyz", "", nil, problemMethod, "GET, HEAD"},
		{"POST", "/metrics", "", nil, problemMethod, "GET, HEAD"},
		{"POST", "/events", "", nil, problemMethod, "GET"},
		{"PUT", "/v1/keys/a", strings.Repeat("v", 101), nil, problemTooLarge, "101 bytes, at most 100"},
		{"PUT", "/v1/keys/a", "v", []string{"Content-Encoding", "gzip"}, problemMedia, "gzip"},
		{"PUT", "/v1/keys/a", "v", []string{"Content-Range", "bytes 0-0/2"}, problemInvalid, "Content-Range"},
		{"PUT", "/v1/keys/a", "v", []string{"Content-Type", strings.Repeat("x", 256)}, problemInvalid, "Content-Type"},
		{"PUT", "/v1/keys/a", "v", []string{"Sec-Fetch-Site", "cross-site"}, problemCrossOrigin, "origin"},
		{"DELETE", "/v1/keys/a", "", []string{"Origin", "https://elsewhere.example"}, problemCrossOrigin, "origin"},
		{"POST", "/v1/mget", "", nil, problemInvalid, "body:"},
		{"POST", "/v1/mget", "[]", nil, problemInvalid, "body:"},
		{"POST", "/v1/mget", `{"keys":["a"]} x`, nil, problemInvalid, "after it"},
		{"POST", "/v1/mget", `{"key":["a"]}`, nil, problemInvalid, "body:"},
		{"POST", "/v1/mget", `{"keys":[]}`, nil, problemInvalid, "there are none"},
		{"POST", "/v1/mget", `{"keys":[""]}`, nil, problemInvalid, "keys[0]: is empty"},
		{"POST", "/v1/mget", `{"keys":["a","12345678901"]}`, nil, problemInvalid, "keys[1]: has 11 bytes"},
		{"POST", "/v1/mget", `{"keys":["a","b","c","d"]}`, nil, problemInvalid, "there are 4, at most 3"},
		{"POST", "/v1/mget", `{"keys":["a"],"encoding":"hex"}`, nil, problemInvalid, `encoding: "hex"`},
		{"POST", "/v1/mget", `{"keys":["YQ"],"encoding":"base64"}`, nil, problemInvalid, "keys[0]: "},
		{"POST", "/v1/mget", `{"keys":["YR=="],"encoding":"base64"}`, nil, problemInvalid, "keys[0]: "},
		{"POST", "/v1/mget", "{\"keys\":[\"\xff\"]}", nil, problemInvalid, "base64"},
		{"POST", "/v1/mget", `{"keys":["\ud800"]}`, nil, problemInvalid, "base64"},
		{"POST", "/v1/mget", `{"keys":["\udc00\ud800"]}`, nil, problemInvalid, "base64"},
		{"POST", "/v1/mget", strings.Repeat(" ", 2000), nil, problemTooLarge, "fewer keys"},
	} {
		r := f.send(c.method, c.path, c.body, c.headers...)
		require.Contains(t, isProblem(t, r, c.want), c.detail, "%s %s", c.method, c.path)
		require.Equal(t, c.want == problemMethod, r.Header.Get("Allow") != "", "%s %s", c.method, c.path)
	}
	f.put("1234567890", strings.Repeat("v", 100)) // at the limits
	isProblem(t, f.send("GET", "/v1/keys/a", ""), problemNotFound)
}

func TestAWrongTypeIsRefusedByRedis(t *testing.T) {
	f := newFront(t, setup{})
	f.redis.Do("LPUSH", "list", "v")
	require.Contains(t, isProblem(t, f.send("GET", "/get?key=list", ""), problemRefused), "WRONGTYPE")
}

func TestManyKeysAreReadAtOnce(t *testing.T) {
	f := newFront(t, setup{})
	f.put("text", "é")
	f.put("bytes", "\xff\x00")
	f.put("typed", "{}", "Content-Type", "application/json")
	f.put("\xff", "under bytes")
	f.redis.Do("SET", "short", "v", "PX", "90000")
	f.redis.Do("SET", `😀"\`, "v")
	r := f.send("POST", "/v1/mget", `{"keys":["text","none","bytes","typed","text","short","\ud83d\ude00\"\\"]}`)
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	got := decodeMany(t, r)
	require.Equal(t, "utf8", got.Encoding)
	require.Equal(t, []string{"none"}, got.Missing)
	require.Len(t, got.Values, 5)
	require.Equal(t, "v", got.Values[`😀"\`].Value)
	for key, want := range map[string]manyValue{
		"text":  {Value: "é", Encoding: "utf8", ContentType: octets, ETag: etag("é", "")},
		"bytes": {Value: "/wA=", Encoding: "base64", ContentType: octets, ETag: etag("\xff\x00", "")},
		"typed": {Value: "{}", Encoding: "utf8", ContentType: "application/json", ETag: etag("{}", "application/json")},
	} {
		v := got.Values[key]
		require.Contains(t, []string{"memory", "redis"}, v.Tier)
		require.Nil(t, v.TTL)
		v.Tier, v.Age = "", 0
		require.Equal(t, want, v, key)
	}
	require.NotNil(t, got.Values["short"].TTL)
	require.InDelta(t, 75, *got.Values["short"].TTL, 15)

	r = f.send("POST", "/v1/mget", `{"keys":["/w==","dGV4dA==","AA=="],"encoding":"base64"}`, "Content-Type", "application/x-www-form-urlencoded")
	got = decodeMany(t, r)
	require.Equal(t, "base64", got.Encoding)
	require.Equal(t, []string{"AA=="}, got.Missing)
	require.Equal(t, "under bytes", got.Values["/w=="].Value)
	require.Equal(t, "é", got.Values["dGV4dA=="].Value)
}

func TestHalfPairsAreFound(t *testing.T) {
	for text, want := range map[string]bool{
		`\ud83d\ude00`: false, `\uD83D\uDE00`: false, `\ud83d`: true, `\ude00`: true, `\ud83d\u0041`: true, `\ud83dx`: true, `\\ud83d`: false,
		`\\\ud83d`: true,
		`\u0041`:   false, `\`: false, `\ud8`: false, `ud83d`: false, `\ud83d\ud83d\ude00`: true, `\ud83d\ude00\ude00`: true, `\n\ud83d\ude00`: false,
	} {
		require.Equal(t, want, hasLoneSurrogate([]byte(text)), text)
	}
}

func TestAnAgeIsInWholeSeconds(t *testing.T) {
	now := time.Now()
	require.Zero(t, age(time.Time{}, now))
	require.Zero(t, age(now.Add(time.Second), now), "clocks may differ")
	require.Equal(t, int64(59), age(now.Add(-time.Minute+time.Millisecond), now))
	require.Equal(t, "aside; hit; detail=none; ttl=0", cacheStatus(proxy.Value{TTL: 999 * time.Millisecond}))
}

// Services that read Redis themselves find the value and nothing else, unless its type says
// something.
func TestAValueWithoutATypeStandsInRedisAsItIs(t *testing.T) {
	f := newFront(t, setup{})
	for contentType, kept := range map[string]bool{
		"": false, "application/octet-stream": false, "binary/octet-stream": false, "text/plain": false, "Text/Plain; charset=UTF-8": false,
		`text/plain; charset="utf-8"`: false, "application/x-www-form-urlencoded": false, "application/x-www-form-urlencoded; charset=utf-8": false,
		"text/plain; charset=latin1": true, "text/plain; format=flowed": true, "text/html": true, "application/json": true, "image/png": true, "no type": true,
	} {
		headers := []string{"Content-Type", contentType}
		if contentType == "" {
			headers = nil
		}
		tag := f.put("k", "value", headers...).Header.Get("ETag")
		stored, served := "value", octets
		if kept {
			stored, served = "\x01aside-http:"+contentType+"\nvalue", contentType
		}
		require.Equal(t, stored, f.redis.Do("GET", "k"), contentType)
		r := f.send("GET", "/v1/keys/k", "")
		require.Equal(t, "value", r.body)
		require.Equal(t, served, r.Header.Get("Content-Type"))
		require.Equal(t, tag, r.Header.Get("ETag"), contentType)
		require.Equal(t, etag("value", "") == tag, !kept, contentType)
	}
	f.put("like", "\x01aside-http:text/html\nvalue") // whose bytes it is
	f.holds("like", "\x01aside-http:text/html\nvalue")
	require.Equal(t, octets, f.send("GET", "/v1/keys/like", "").Header.Get("Content-Type"))
}

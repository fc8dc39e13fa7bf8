package web

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const token = "s3cret-s3cret"

func TestWithATokenNothingIsServedWithoutIt(t *testing.T) {
	f := newFront(t, setup{web: Options{Token: token, Pprof: true}})
	for _, c := range [][2]string{
		{"GET", "/get?key=k"}, {"GET", "/v1/keys/k"}, {"HEAD", "/v1/keys/k"}, {"PUT", "/v1/keys/k"}, {"DELETE", "/v1/keys/k"},
		{"POST", "/v1/mget"}, {"GET", "/metrics"},
		{"GET", "/events"}, {"GET", "/debug/pprof/"}, {"GET", "/debug/pprof/cmdline"}, {"GET", "/nothing"},
	} {
		for _, header := range []string{"", "Bearer", "Bearer ", "Bearer wrong", "Bearer " + token + "x", "Bearer " + token[1:], "Basic " + token, token} {
			r := f.send(c[0], c[1], "", "Authorization", header)
			require.Equal(t, http.StatusUnauthorized, r.StatusCode, "%v %q", c, header)
			require.Equal(t, `Bearer realm="aside"`, r.Header.Get("WWW-Authenticate"))
			if c[0] != "HEAD" {
				require.NotContains(t, isProblem(t, r, problemUnauthorized), token)
			}
		}
	}
	for _, header := range []string{"Bearer " + token, "bearer " + token} {
		require.Equal(t, http.StatusNoContent, f.send("PUT", "/v1/keys/k", "v", "Authorization", header).StatusCode)
		require.Equal(t, "v", f.send("GET", "/get?key=k", "", "Authorization", header).body)
		for _, path := range []string{"/metrics", "/debug/pprof/", "/debug/pprof/cmdline", "/debug/pprof/symbol", "/debug/pprof/goroutine?debug=1", "/"} {
			require.Equal(t, http.StatusOK, f.send("GET", path, "", "Authorization", header).StatusCode, path)
		}
	}
	for _, path := range []string{"/healthz", "/readyz"} {
		r := f.send("GET", path, "")
		require.Equal(t, http.StatusOK, r.StatusCode)
		require.NotContains(t, r.body, f.redis.Addr())
	}
}

func TestTheTokenOpensThePageOnceAndForAll(t *testing.T) {
	f := newFront(t, setup{web: Options{Token: token, Pprof: true}})
	r := f.send("GET", "/", "")
	require.Equal(t, http.StatusUnauthorized, r.StatusCode)
	require.Contains(t, r.body, `<form method="post" action="/">`)
	require.Equal(t, http.StatusUnauthorized, f.send("GET", "/?token=wrong", "").StatusCode)
	submit := func(typed string, headers ...string) reply {
		return f.send("POST", "/", "token="+typed, append(headers, "Content-Type", "application/x-www-form-urlencoded")...)
	}
	require.Equal(t, http.StatusUnauthorized, submit("wrong").StatusCode)
	require.Equal(t, http.StatusUnauthorized, submit(strings.Repeat("x", 1<<20)).StatusCode)
	isProblem(t, submit(token, "Sec-Fetch-Site", "cross-site"), problemCrossOrigin)

	for _, opened := range []reply{f.send("GET", "/?token="+token, ""), submit(token)} {
		require.Equal(t, http.StatusSeeOther, opened.StatusCode)
		require.Equal(t, "/", opened.Header.Get("Location"), "the token does not stay in the address")
		cookies := opened.Cookies()
		require.Len(t, cookies, 1)
		require.True(t, cookies[0].HttpOnly)
		require.Equal(t, http.SameSiteStrictMode, cookies[0].SameSite)
		require.False(t, cookies[0].Secure, "this is not TLS, where the browser would not send it back")
		require.NotContains(t, cookies[0].Value, token)
		cookie := cookies[0].Name + "=" + cookies[0].Value

		require.Equal(t, http.StatusOK, f.send("GET", "/", "", "Cookie", cookie).StatusCode)
		stream := f.watch("Cookie", cookie)
		stream.next()
		stream.close()
		for _, path := range []string{"/get?key=k", "/v1/keys/k", "/debug/pprof/"} {
			require.Equal(t, http.StatusUnauthorized, f.send("GET", path, "", "Cookie", cookie).StatusCode, "it opens the page only")
		}
		require.Equal(t, http.StatusOK, f.send("GET", "/metrics", "", "Cookie", cookie).StatusCode, "to which the page has a link")
		require.Equal(t, http.StatusUnauthorized, f.send("GET", "/", "", "Cookie", cookie+"x").StatusCode)
	}
	require.Nil(t, newAuth(""))
	require.NotEqual(t, newAuth("a").cookie, newAuth("b").cookie)
}

func TestThePageAllowsItsOwnScriptOnly(t *testing.T) {
	f := newFront(t, setup{})
	r := f.send("GET", "/", "")
	require.Equal(t, http.StatusOK, r.StatusCode)
	policy := r.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.Contains(t, policy, "script-src 'sha256-")
	require.Contains(t, policy, "style-src 'sha256-")
	require.Contains(t, policy, "frame-ancestors 'none'")
	require.NotContains(t, policy, "unsafe")
	require.NotRegexp(t, `(src|href)="https?:`, r.body, "no outside assets")
	require.NotRegexp(t, ` (style|on[a-z]+)="`, r.body, "the policy would refuse them")
	require.Equal(t, http.StatusNotModified, f.send("GET", "/", "", "If-None-Match", r.Header.Get("ETag")).StatusCode)
	require.Equal(t, http.StatusOK, f.send("HEAD", "/", "").StatusCode)
	require.Equal(t, http.StatusOK, f.send("GET", "/?anything=else", "").StatusCode)
}

func TestAPageOfSomebodyElseCannotPoseAsOurs(t *testing.T) {
	f := newFront(t, setup{})
	get := func(path, host string) reply {
		return f.raw("GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n")
	}
	for _, host := range []string{"localhost", "LOCALHOST:9997", "cache.localhost", "127.0.0.1", "127.0.0.1:80", "[::1]", "[::1]:80", "10.1.2.3", ""} {
		require.Equal(t, http.StatusOK, get("/metrics", host).StatusCode, "%q", host)
	}
	for _, host := range []string{"evil.example", "evil.example:9997", "localhost.evil.example", "127.0.0.1.evil.example", "notlocalhost"} {
		require.Contains(t, isProblem(t, get("/get?key=k", host), problemHost), "set service.token")
		isProblem(t, get("/", host), problemHost)
		require.Equal(t, http.StatusOK, get("/healthz", host).StatusCode)
		require.Equal(t, http.StatusOK, get("/readyz", host).StatusCode)
	}
	f = newFront(t, setup{web: Options{Token: token}})
	isProblem(t, get("/get?key=k", "evil.example"), problemUnauthorized)
	r := f.raw("GET /metrics HTTP/1.1\r\nHost: cache.example\r\nAuthorization: Bearer " + token + "\r\nConnection: close\r\n\r\n")
	require.Equal(t, http.StatusOK, r.StatusCode, "a client with the token may use any name for us")
}

package web

import (
	"encoding/json"
	"net/http"
	"net/url"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

func explainPath(key string, more ...string) string {
	path := "/explain?key=" + url.QueryEscape(key)
	for _, m := range more {
		path += "&" + m
	}
	return path
}

func TestAKeyIsExplainedOverHTTP(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}, web: Options{MaxKeyBytes: 20}})
	f.put("k", "the value")
	f.holds("k", "the value")
	r := f.send("GET", explainPath("k"), "", "Accept", "application/json")
	require.Equal(t, http.StatusOK, r.StatusCode, r.body)
	require.Equal(t, "application/json", r.Header.Get("Content-Type"))
	require.Equal(t, "no-store", r.Header.Get("Cache-Control"))
	var said struct {
		Key    string
		Memory *struct{ State string }
		Redis  struct {
			Holds string
			Bytes int
			TTL   *int `json:"ttl_ms"`
		}
		Stamp *struct{ Ours bool }
		Lock  *struct{}
		Value *struct{ Text string }
	}
	require.NoError(t, json.Unmarshal([]byte(r.body), &said), r.body)
	require.Equal(t, "k", said.Key)
	require.Equal(t, "value", said.Redis.Holds)
	require.Equal(t, 9, said.Redis.Bytes)
	require.Nil(t, said.Redis.TTL)
	require.True(t, said.Stamp.Ours)
	require.Nil(t, said.Lock)
	require.Nil(t, said.Value, "nobody has asked for it")
	r = f.send("GET", explainPath("k", "value=1"), "")
	require.NoError(t, json.Unmarshal([]byte(r.body), &said), r.body)
	require.Equal(t, "the value", said.Value.Text)

	r = f.send("GET", explainPath("k"), "", "Accept", "text/plain")
	require.Equal(t, "text/plain; charset=utf-8", r.Header.Get("Content-Type"))
	require.Contains(t, r.body, "Last write (the stamp)\n  was                         a Set\n")
	require.NotContains(t, r.body, "the value")
	require.Contains(t, f.send("GET", explainPath("<b>&", "format=html"), "").body, "&lt;b&gt;&amp;")
	require.Empty(t, f.send("HEAD", explainPath("k"), "").body)

	require.Contains(t, isProblem(t, f.send("GET", "/explain", ""), problemInvalid), "ask for explain?key=K")
	require.Contains(t, isProblem(t, f.send("GET", explainPath("k", "value=2"), ""), problemInvalid), "neither 0 nor 1")
	require.Contains(t, isProblem(t, f.send("GET", explainPath("k", "format=xml"), ""), problemInvalid), "use html, json or text")
	require.Contains(t, isProblem(t, f.send("GET", explainPath("k", "vlaue=1"), ""), problemInvalid), "vlaue")
	require.Contains(t, isProblem(t, f.send("GET", explainPath("k", "key=l"), ""), problemInvalid), "give it once")
	isProblem(t, f.send("GET", explainPath("123456789012345678901"), ""), problemKeyTooLong)
	isProblem(t, f.send("POST", explainPath("k"), ""), problemMethod)
	require.Equal(t, http.StatusBadRequest, f.send("GET", explainPath("aside:stamps:x"), "").StatusCode)

	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	f.put("k", "kept")
	r = f.send("GET", explainPath("k", "format=text"), "")
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.Contains(t, r.body, "not known")
	require.Contains(t, r.body, "waits to be replayed        yes")
	f.redis.RestartKeepingData()
	f.awaitMode(aside.Healthy)
}

// The cookie of the page opens no values.
func TestAValueIsExplainedForTheTokenOnly(t *testing.T) {
	f := newFront(t, setup{web: Options{Token: token}})
	bearer := []string{"Authorization", "Bearer " + token}
	f.put("k", "the value", bearer...)
	isProblem(t, f.send("GET", explainPath("k"), ""), problemUnauthorized)
	cookie := []string{"Cookie", cookieName + "=" + newAuth(token).cookie}
	r := f.send("GET", explainPath("k", "format=html"), "", cookie...)
	require.Equal(t, http.StatusOK, r.StatusCode)
	require.NotContains(t, r.body, "Show the value")
	isProblem(t, f.send("GET", explainPath("k", "value=1"), "", cookie...), problemUnauthorized)
	require.Contains(t, f.send("GET", explainPath("k", "value=1"), "", bearer...).body, "the value")
}

func TestThePageExplainsAKey(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}})
	f.put("user:42", "Ada")
	f.holds("user:42", "Ada")
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	b.await("it is healthy", "document.getElementById('mode').innerText === 'healthy'")
	run(b, chromedp.SendKeys(chromedp.CSS("#key"), "user:42"))
	run(b, chromedp.Click(chromedp.CSS(".explain button")))
	b.await("it is explained", "document.querySelector('#redis dd') !== null")
	require.Equal(t, `"user:42"`, js[string](b, "document.querySelector('h1').innerText"))
	require.Contains(t, b.text("redis"), "a value")
	require.Contains(t, b.text("stamp"), "(this process)")
	require.Nil(t, js[any](b, "document.getElementById('value')"))
	b.inspect("explain")
	run(b, chromedp.Click(chromedp.CSS("form:last-of-type button")))
	b.await("the value is shown", "document.getElementById('value') !== null")
	require.Contains(t, b.text("value"), "Ada")
	b.inspect("explain-value")
	b.calm()
}

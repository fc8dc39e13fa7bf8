package web

import (
	"bufio"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// received is the URL of a request line, as a server reads it.
func received(target string) (*url.URL, error) {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: h\r\n\r\n")))
	if err != nil {
		return nil, err
	}
	return r.URL, nil
}

// A key is the same after it was made a path, or a query, and read back; and whatever a client
// sends is refused or is one key.
func FuzzHTTPPath(f *testing.F) {
	for _, seed := range []string{"a", "", "/", "a/b", "..", "./", "%2F", "%", "%zz", "\x00", "\xff", "é", "a b+c", "?#&;=", "//a//", "\r\n"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := received(KeyPath(text))
		if err != nil {
			t.Fatalf("%q makes the path %q, which no server reads: %v", text, KeyPath(text), err)
		}
		if key, err := keyOfPath(u.EscapedPath()); err != nil || key != text {
			t.Fatalf("%q makes the path %q, which means %q, %v", text, KeyPath(text), key, err)
		}
		if query := "key=" + url.QueryEscape(text); true {
			if key, err := keyOfQuery(query); err != nil || key != text {
				t.Fatalf("%q makes the query %q, which means %q, %v", text, query, key, err)
			}
		}
		if u, err := received(keysPrefix + text); err == nil && strings.HasPrefix(u.EscapedPath(), keysPrefix) {
			key, err := keyOfPath(u.EscapedPath())
			if err != nil {
				t.Fatalf("net/http accepts %q, and it is no key: %v", text, err)
			}
			again, err := received(KeyPath(key))
			if err != nil {
				t.Fatal(err)
			}
			if same, err := keyOfPath(again.EscapedPath()); err != nil || same != key {
				t.Fatalf("%q is the key %q, and then %q, %v", text, key, same, err)
			}
		}
		if key, err := keyOfQuery(text); err == nil {
			if same, err := keyOfQuery("key=" + url.QueryEscape(key)); err != nil || same != key {
				t.Fatalf("%q is the key %q, and then %q, %v", text, key, same, err)
			}
		}
		_, _ = parseTTL(text)
		_ = matches([]string{text}, `"x"`, true)
		_ = hasLoneSurrogate([]byte(text))
	})
}

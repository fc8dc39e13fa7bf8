package web

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

const keysPrefix = "/v1/keys/"

// KeyPath is the path of key: /v1/keys/ and the key, percent-encoded so that no client and no
// server on the way can take it for something else: slashes and dots are encoded, too.
func KeyPath(key string) string {
	// PathEscape leaves dots as they are, and "." and ".." are segments that are resolved.
	return keysPrefix + strings.ReplaceAll(url.PathEscape(key), ".", "%2E")
}

// keyOfPath is the key that an escaped path below keysPrefix means.
func keyOfPath(escaped string) (string, error) {
	key, err := url.PathUnescape(escaped[len(keysPrefix):])
	if err != nil {
		return "", fmt.Errorf("key: %w; encode each byte that is no letter or digit as %%XX", err)
	}
	return key, nil
}

// keyOfQuery is the key of a query that has this one field only.
func keyOfQuery(raw string) (string, error) {
	if value, ok := strings.CutPrefix(raw, "key="); ok && !strings.ContainsAny(value, "&;") { // what everybody sends
		key, err := url.QueryUnescape(value)
		if err != nil {
			return "", fmt.Errorf("key: %w; encode each byte that is no letter or digit as %%XX", err)
		}
		return key, nil
	}
	fields, err := queryFields(raw, "key")
	if err != nil {
		return "", err
	}
	key, ok := fields["key"]
	if !ok {
		return "", fmt.Errorf("key: is missing; ask for /get?key=K")
	}
	return key, nil
}

// queryFields reads a query in which only known fields may be, each once: a misspelt ttl must not
// mean none.
func queryFields(raw string, known ...string) (map[string]string, error) {
	if raw == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(raw)
	if err != nil {
		return nil, fmt.Errorf("query: %w; encode each byte that is no letter or digit as %%XX", err)
	}
	fields := make(map[string]string, len(values))
	for name, all := range values {
		switch {
		case !slices.Contains(known, name):
			return nil, fmt.Errorf("query: %q is not known here; use %s", shortened(name), strings.Join(known, ", "))
		case len(all) > 1:
			return nil, fmt.Errorf("%s: is given %d times; give it once", name, len(all))
		}
		fields[name] = all[0]
	}
	return fields, nil
}

// shortened makes what a client has sent fit for a message.
func shortened(s string) string {
	const most = 64
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

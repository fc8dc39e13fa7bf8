package web

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
)

// etag is a strong entity tag of a value's bytes and its content type, if it has one: the same in
// all processes and for ever, so that it outlives a restart.
func etag(data, contentType string) string {
	digest := sha256.New()
	var piece [4096]byte // []byte(data) would be a copy of all of it
	if contentType != "" {
		digest.Write(append(append(piece[:0], contentType...), 0))
	}
	for rest := data; rest != ""; {
		n := copy(piece[:], rest)
		digest.Write(piece[:n])
		rest = rest[n:]
	}
	hash := digest.Sum(piece[:0])
	var tag [24]byte
	tag[0], tag[23] = '"', '"'
	base64.RawURLEncoding.Encode(tag[1:23], hash[:16])
	return string(tag[:])
}

// conditional says that a header asks for a precondition.
func conditional(h http.Header, names ...string) string {
	for _, name := range names {
		if len(h.Values(name)) > 0 {
			return name
		}
	}
	return ""
}

// matches reports whether a list of entity tags, as in If-None-Match, has tag. weakly: a W/ before
// it makes no difference.
func matches(lists []string, tag string, weakly bool) bool {
	for _, list := range lists {
		list = strings.TrimSpace(list)
		if list == "*" {
			return true
		}
		// A tag may have commas in it, so the list is not split at them.
		for list != "" {
			list = strings.TrimLeft(list, " \t,")
			weak := strings.HasPrefix(list, "W/")
			list = strings.TrimPrefix(list, "W/")
			if !strings.HasPrefix(list, `"`) {
				break // not a list of tags: what is left matches nothing
			}
			end := strings.IndexByte(list[1:], '"')
			if end < 0 {
				break
			}
			if list[:end+2] == tag && (weakly || !weak) {
				return true
			}
			list = list[end+2:]
		}
	}
	return false
}

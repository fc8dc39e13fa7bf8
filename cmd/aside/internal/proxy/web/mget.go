package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

// manyRequest is the body of POST /v1/mget. With Encoding "base64" (standard, padded) its keys are
// encoded, and so are those of the answer: JSON has no other way to say a key that is not UTF-8.
type manyRequest struct {
	Keys     []string `json:"keys"`
	Encoding string   `json:"encoding"` // "utf8", the default, or "base64"
}

// manyValue is one value of the answer.
type manyValue struct {
	Value       string   `json:"value"`
	Encoding    string   `json:"encoding"` // of Value: "utf8", or "base64" where it is not UTF-8
	TTL         *float64 `json:"ttl"`      // seconds left, to the millisecond; null if it does not expire
	ContentType string   `json:"content_type"`
	ETag        string   `json:"etag"`
	Tier        string   `json:"tier"` // "memory", "redis" or "disk"
	Age         int64    `json:"age"`  // seconds
}

// serveMget answers {"values": {key: …}, "missing": [key, …]}, each key as it was given, in the
// order in which they were.
func (x *exchange) serveMget(ctx context.Context) {
	if !x.allow(http.MethodPost) {
		return
	}
	// A key may be all \u00XX, six bytes each, and has quotes and a comma.
	limit := x.o.MaxKeys*(6*x.o.MaxKeyBytes+16) + 1<<10
	body, ok := x.body(ctx, limit, "ask for fewer keys at once")
	if !ok {
		return
	}
	given, keys, encoding, err := x.keysOf([]byte(body))
	if err != nil {
		x.fail(invalid(err))
		return
	}
	var found map[string]proxy.Value
	err = x.work(ctx, func() (err error) {
		found, err = x.store.GetMulti(ctx, keys)
		return err
	})
	if err != nil {
		x.failed(err)
		return
	}
	for key, v := range found {
		if v, err = x.serves(v, -1); err != nil {
			delete(found, key)
		} else {
			found[key] = v
		}
	}
	h := x.w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	x.markMode()
	x.answer(http.StatusOK)
	out := bufio.NewWriterSize(x.w, 16<<10)
	writeMany(out, given, keys, encoding, found)
	_ = out.Flush() // the reader has gone
}

// writeMany writes the answer value by value: encoded, all of them would be in memory a second
// time.
func writeMany(out *bufio.Writer, given, keys []string, encoding string, found map[string]proxy.Value) {
	_, _ = out.WriteString(`{"encoding":` + strconv.Quote(encoding) + `,"values":{`)
	now := time.Now()
	missing := make([]string, 0, len(keys)-len(found))
	comma := ""
	for i, key := range keys {
		v, ok := found[key]
		if !ok {
			missing = append(missing, given[i])
			continue
		}
		_, _ = out.WriteString(comma)
		writeJSON(out, given[i])
		_ = out.WriteByte(':')
		writeJSON(out, manyOf(v, now))
		comma = ","
	}
	_, _ = out.WriteString(`},"missing":`)
	writeJSON(out, missing)
	_, _ = out.WriteString("}\n")
}

func manyOf(v proxy.Value, now time.Time) manyValue {
	m := manyValue{Value: v.Data, Encoding: "utf8", ContentType: v.ContentType, ETag: etag(v.Data, v.ContentType), Tier: v.Source.String(), Age: age(v.At, now)}
	if !utf8.ValidString(v.Data) {
		m.Value, m.Encoding = base64.StdEncoding.EncodeToString([]byte(v.Data)), "base64"
	}
	if m.ContentType == "" {
		m.ContentType = octets
	}
	m.ContentType = strings.ToValidUTF8(m.ContentType, "\uFFFD")
	if v.TTL != proxy.NoExpiry {
		seconds := float64(v.TTL/time.Millisecond) / 1000
		m.TTL = &seconds
	}
	return m
}

// writeJSON writes what cannot fail to be JSON.
func writeJSON(out *bufio.Writer, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Errorf("%T is not JSON: %w", value, err))
	}
	_, _ = out.Write(text)
}

// keysOf reads the body of an mget: the keys, each once, as they are and as they were given.
func (x *exchange) keysOf(body []byte) (given, keys []string, encoding string, err error) {
	// encoding/json takes what is not UTF-8 for U+FFFD: that would be another key.
	if !utf8.Valid(body) || hasLoneSurrogate(body) {
		return nil, nil, "", errors.New(`body: is not UTF-8; send keys that are not as {"encoding": "base64", "keys": […]}`)
	}
	var request manyRequest
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err = decoder.Decode(&request); err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			err = errors.New("there is something after it")
		}
	}
	if err != nil {
		return nil, nil, "", fmt.Errorf(`body: %w; send {"keys": ["a", "b"]}`, err)
	}
	switch {
	case request.Encoding == "":
		request.Encoding = "utf8"
	case request.Encoding != "utf8" && request.Encoding != "base64":
		return nil, nil, "", fmt.Errorf(`encoding: %q is not known; use "utf8" or "base64"`, shortened(request.Encoding))
	}
	if len(request.Keys) == 0 {
		return nil, nil, "", errors.New(`keys: there are none; send {"keys": ["a", "b"]}`)
	}
	if len(request.Keys) > x.o.MaxKeys {
		return nil, nil, "", fmt.Errorf("keys: there are %d, at most %d are allowed; ask in several requests, or raise service.max_keys",
			len(request.Keys), x.o.MaxKeys)
	}
	seen := make(map[string]bool, len(request.Keys))
	for i, text := range request.Keys {
		key := text
		if request.Encoding == "base64" {
			bytes, err := base64.StdEncoding.Strict().DecodeString(text)
			if err != nil || strings.ContainsAny(text, "\r\n") {
				return nil, nil, "", fmt.Errorf("keys[%d]: %q is not base64; use the standard alphabet, padded", i, shortened(text))
			}
			key = string(bytes)
		}
		switch {
		case key == "":
			return nil, nil, "", fmt.Errorf("keys[%d]: is empty; leave it out", i)
		case len(key) > x.o.MaxKeyBytes:
			return nil, nil, "", fmt.Errorf("keys[%d]: "+keyTooLong, i, len(key), x.o.MaxKeyBytes)
		case !seen[key]:
			seen[key] = true
			given, keys = append(given, text), append(keys, key)
		}
	}
	return given, keys, request.Encoding, nil
}

// hasLoneSurrogate reports whether a \u escape of JSON is half a pair.
func hasLoneSurrogate(text []byte) bool {
	surrogate := func(at int) uint64 { // the code unit of the escape at text[at], if it is a surrogate; else 0
		if at+6 > len(text) || text[at] != '\\' || text[at+1] != 'u' {
			return 0
		}
		unit, err := strconv.ParseUint(string(text[at+2:at+6]), 16, 16)
		if err != nil || unit < 0xD800 || unit > 0xDFFF {
			return 0
		}
		return unit
	}
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		unit := surrogate(i)
		switch {
		case unit == 0:
			i++ // what is escaped is no backslash that escapes
		case unit < 0xDC00 && surrogate(i+6) >= 0xDC00:
			i += 11
		default:
			return true
		}
	}
	return false
}

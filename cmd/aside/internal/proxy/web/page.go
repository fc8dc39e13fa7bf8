package web

import (
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

//go:embed page.html
var pageHTML string

//go:embed login.html
var loginHTML string

// page is the status page, and the form that asks for a token, each with its policy. Immutable.
type page struct{ status, login document }

// document is a page with its style and script in it; the policy allows exactly these.
type document struct{ html, policy, tag string }

func newPage() *page { return &page{status: newDocument(pageHTML), login: newDocument(loginHTML)} }

func newDocument(html string) document {
	sources := func(element string) string {
		var hashes []string
		for rest := html; ; {
			_, after, ok := strings.Cut(rest, "<"+element+">")
			if !ok {
				break
			}
			content, after, ok := strings.Cut(after, "</"+element+">")
			if !ok {
				panic(fmt.Sprintf("the page has a <%s> without an end", element))
			}
			hash := sha256.Sum256([]byte(content))
			hashes = append(hashes, "'sha256-"+base64.StdEncoding.EncodeToString(hash[:])+"'")
			rest = after
		}
		if len(hashes) == 0 {
			return "'none'"
		}
		return strings.Join(hashes, " ")
	}
	return document{
		html: html,
		policy: "default-src 'none'; style-src " + sources("style") + "; script-src " + sources("script") +
			"; connect-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
		tag: etag(html, ""),
	}
}

// servePage shows the status page to viewers that have the token or its cookie, and asks others for
// it.
func (x *exchange) servePage() {
	if x.auth == nil {
		if x.allow(http.MethodGet, http.MethodHead) {
			x.document(http.StatusOK, x.page.status)
		}
		return
	}
	if !x.allow(http.MethodGet, http.MethodHead, http.MethodPost) {
		return
	}
	token := ""
	if x.r.Method == http.MethodPost {
		x.r.Body = http.MaxBytesReader(x.w, x.r.Body, 4<<10)
		token = x.r.PostFormValue("token")
	} else if x.r.URL.RawQuery != "" {
		token = x.r.URL.Query().Get("token")
	}
	switch {
	case token != "" && x.auth.is(token):
		x.open()
	case x.r.Method != http.MethodPost && token == "" && x.auth.page(x.r):
		x.document(http.StatusOK, x.page.status)
	default:
		x.w.Header().Set("WWW-Authenticate", `Bearer realm="aside"`)
		x.document(http.StatusUnauthorized, x.page.login)
	}
}

func (x *exchange) document(status int, d document) {
	h := x.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", d.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-cache")
	if status == http.StatusOK {
		h.Set("ETag", d.tag)
		if list := x.r.Header.Values("If-None-Match"); len(list) > 0 && matches(list, d.tag, true) {
			x.answer(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(d.html)))
	x.answer(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write([]byte(d.html))
	}
}

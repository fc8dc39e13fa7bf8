package web

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// cookieName is the cookie that opens the status page.
const cookieName = "aside_page"

// auth knows the token. What a caller has is compared by hashes of equal length, so that the time
// it takes tells nothing. Immutable.
type auth struct {
	token  [sha256.Size]byte
	cookie string
}

func newAuth(token string) *auth {
	if token == "" {
		return nil
	}
	mac := hmac.New(sha256.New, []byte(token))
	mac.Write([]byte("aside status page, v1"))
	return &auth{token: sha256.Sum256([]byte(token)), cookie: base64.RawURLEncoding.EncodeToString(mac.Sum(nil))}
}

func (a *auth) is(token string) bool {
	hash := sha256.Sum256([]byte(token))
	return subtle.ConstantTimeCompare(hash[:], a.token[:]) == 1
}

// bearer reports whether the request has the token in its header.
func (a *auth) bearer(r *http.Request) bool {
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	return ok && strings.EqualFold(scheme, "Bearer") && a.is(strings.TrimSpace(token))
}

// page reports whether the request has the token, or the cookie that stands for it on the page and
// its events.
func (a *auth) page(r *http.Request) bool {
	if a.bearer(r) {
		return true
	}
	for _, cookie := range r.CookiesNamed(cookieName) {
		if subtle.ConstantTimeCompare([]byte(cookie.Value), []byte(a.cookie)) == 1 {
			return true
		}
	}
	return false
}

// ourHost refuses names under which a page of somebody else may have found us: its owner lets the
// name point to 127.0.0.1, and the browser takes us for the page's own server (DNS rebinding).
// Where there is no token, and we are asked by loopback, only names of loopback will do. The health
// checks say nothing that anybody would want.
func (x *exchange) ourHost() bool {
	local, ok := x.r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	if x.auth != nil || !ok || !local.IP.IsLoopback() {
		return true
	}
	host := x.r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if host == "" || host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host) != nil {
		return true
	}
	if path := x.r.URL.EscapedPath(); path == "/healthz" || path == "/readyz" {
		return true
	}
	x.fail(problem{problemHost, fmt.Sprintf("Host: %q is not a name of this machine; ask for localhost or an address, or set service.token",
		shortened(host))})
	return false
}

// open sets the cookie and sends the browser to the page without the token in its address.
func (x *exchange) open() {
	http.SetCookie(x.w, &http.Cookie{
		Name: cookieName, Value: x.auth.cookie, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: x.r.TLS != nil,
	})
	x.w.Header().Set("Location", "/")
	x.answer(http.StatusSeeOther)
}

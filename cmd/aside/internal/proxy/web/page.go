package web

import (
	_ "embed" // the form
	"net/http"
	"strconv"

	"github.com/redaside/aside/internal/statuspage"
)

//go:embed login.html
var loginHTML string

// page is the status page, and the form that asks for a token. Immutable.
type page struct{ status, login statuspage.Document }

func newPage() *page {
	return &page{
		status: statuspage.Page(statuspage.Shell{What: "proxy", Events: "/events", Links: []string{"/metrics", "metrics", "/readyz", "readiness"}}),
		login:  statuspage.NewDocument(loginHTML),
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

func (x *exchange) document(status int, d statuspage.Document) {
	h := x.w.Header()
	d.Head(h)
	if status == http.StatusOK {
		h.Set("ETag", d.Tag)
		if list := x.r.Header.Values("If-None-Match"); len(list) > 0 && matches(list, d.Tag, true) {
			x.answer(http.StatusNotModified)
			return
		}
	}
	h.Set("Content-Length", strconv.Itoa(len(d.HTML)))
	x.answer(status)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write([]byte(d.HTML))
	}
}

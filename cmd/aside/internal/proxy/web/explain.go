package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/internal/statuspage"
)

// serveExplain tells what is known of a key to viewers that may see the page; its value only to
// those who have the token. It reads nothing for the memory, and stores nothing.
func (x *exchange) serveExplain() {
	if x.auth != nil && !x.auth.page(x.r) {
		x.unauthorized()
		return
	}
	if !x.allow(http.MethodGet, http.MethodHead) {
		return
	}
	asked, err := statuspage.Asked(x.r)
	if err != nil {
		x.fail(problem{problemInvalid, err.Error()})
		return
	}
	mayValue := x.auth == nil || x.auth.bearer(x.r)
	switch {
	case asked.Value && !mayValue:
		x.unauthorized() // the cookie opens no values
		return
	case len(asked.Key) > x.o.MaxKeyBytes:
		x.fail(problem{problemKeyTooLong, fmt.Sprintf("key: "+keyTooLong, len(asked.Key), x.o.MaxKeyBytes)})
		return
	case proxy.Reserved(asked.Key):
		x.fail(problemOf(proxy.ErrReserved))
		return
	}
	ctx, cancel := context.WithTimeout(x.r.Context(), x.o.RequestTimeout)
	defer cancel()
	var e *statuspage.Explained
	err = x.work(ctx, func() (err error) {
		e, err = statuspage.Explain(ctx, x.client, asked.Key, asked.Value)
		return err
	})
	if err != nil {
		if errors.Is(err, aside.ErrClosed) {
			x.fail(problem{problemStopping, "the proxy has ended; ask elsewhere"})
			return
		}
		x.fail(problemOf(err))
		return
	}
	switch asked.Format {
	case "json":
		x.sendJSON(http.StatusOK, e)
	case "text":
		x.sendText(e.Text(), "text/plain; charset=utf-8")
	default:
		d := e.Page("/", mayValue)
		d.Head(x.w.Header())
		x.sendText(d.HTML, x.w.Header().Get("Content-Type"))
	}
}

// sendText answers with what nobody may cache.
func (x *exchange) sendText(text, contentType string) {
	h := x.w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(text)))
	x.answer(http.StatusOK)
	if x.r.Method != http.MethodHead {
		_, _ = x.w.Write([]byte(text))
	}
}

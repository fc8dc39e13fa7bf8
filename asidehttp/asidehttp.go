// Package asidehttp shows how an aside.Client is doing, over HTTP: the status page that the proxy
// has, for any service, and why a key holds what it holds.
//
//	mux.Handle("/debug/cache/", http.StripPrefix("/debug/cache", asidehttp.Handler(client, mayLook)))
//
// It is read-only, and behind a guard: nothing is shown to a request that the guard refuses, and
// without a guard nothing is shown at all.
//
//	/                      the page, which asks for the rest
//	/status                what it shows, as JSON
//	/explain?key=K         what is known of a key, see Client.Explain: a page, or JSON or text, as Accept
//	                       or ?format=json says
//	/explain?key=K&value=1 with its value
//
// Keys with bytes that are not text are percent-encoded.
package asidehttp

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/statuspage"
)

// Guard reports whether a request may see the page, and all that it shows: keys, and values if they
// are asked for. It must be safe for concurrent use.
type Guard func(*http.Request) bool

// Handler shows how client is doing to those whom guard lets in; others are answered 403. A nil
// guard lets nobody in. It has no goroutines: the page asks for its data every second. It may be
// mounted anywhere, with or without http.StripPrefix, at a path that ends with a slash. Make it once
// for a client: it is told of the client's changes of mode for as long as that lives.
func Handler(client *aside.Client, guard Guard) http.Handler {
	h := &handler{
		client: client, guard: guard, watch: statuspage.New(client, statuspage.Options{}),
		page: statuspage.Page(statuspage.Shell{What: "service", Status: "status", Links: []string{"status", "JSON"}}),
	}
	client.OnModeChange(h.watch.Changed) // for as long as the client lives
	return h
}

type handler struct {
	client *aside.Client // immutable, as are the next ones
	guard  Guard
	watch  *statuspage.Watch
	page   statuspage.Document
}

// explainWithin is how long an explanation may take, beyond which it says what it knows.
const explainWithin = 5 * time.Second

// ServeHTTP implements [http.Handler].
func (h *handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-store")
	switch {
	case h.guard == nil:
		http.Error(w, "asidehttp: this page has no guard, so nobody may see it: give asidehttp.Handler a function that says who may", http.StatusForbidden)
		return
	case !h.guard(r):
		http.Error(w, "asidehttp: the guard of this page does not let this request in", http.StatusForbidden)
		return
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "asidehttp: this page is read-only: use GET", http.StatusMethodNotAllowed)
		return
	}
	switch r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:] { // nothing, of the page, wherever it is mounted
	case "status":
		h.status(w)
	case "explain":
		h.explain(w, r)
	default:
		h.servePage(w, r)
	}
}

// servePage shows the page at a path that ends with a slash: its addresses are relative.
func (h *handler) servePage(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "": // http.StripPrefix has taken all of it
		asked, _, _ := strings.Cut(r.RequestURI, "?")
		w.Header().Set("Location", "./"+path.Base(asked)+"/")
		w.WriteHeader(http.StatusSeeOther)
	case !strings.HasSuffix(r.URL.Path, "/"):
		http.Error(w, "asidehttp: there is nothing here: the page is at a path that ends with a slash, and beside it are status and explain?key=", http.StatusNotFound)
	default:
		send(w, h.page)
	}
}

func send(w http.ResponseWriter, d statuspage.Document) {
	d.Head(w.Header())
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Content-Length", strconv.Itoa(len(d.HTML)))
	_, _ = w.Write([]byte(d.HTML)) // the viewer has left, if it fails
}

// status is what the page shows.
func (h *handler) status(w http.ResponseWriter) {
	h.watch.Tick()
	sendJSON(w, h.watch.Snapshot(h.client.Health()))
}

func sendJSON(w http.ResponseWriter, value any) {
	body, err := json.Marshal(value)
	if err != nil { // of types of our own
		http.Error(w, "asidehttp: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(body, '\n')) // the viewer has left, if it fails
}

func (h *handler) explain(w http.ResponseWriter, r *http.Request) {
	asked, err := statuspage.Asked(r)
	if err != nil {
		http.Error(w, "asidehttp: "+err.Error(), http.StatusBadRequest)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), explainWithin)
	defer cancel()
	e, err := statuspage.Explain(ctx, h.client, asked.Key, asked.Value)
	switch {
	case errors.Is(err, aside.ErrTooLarge), errors.Is(err, aside.ErrInvalidArgument):
		http.Error(w, err.Error(), http.StatusBadRequest)
	case err != nil:
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
	case asked.Format == "json":
		sendJSON(w, e)
	case asked.Format == "text":
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		_, _ = w.Write([]byte(e.Text())) // the viewer has left, if it fails
	default:
		send(w, e.Page("./", true))
	}
}

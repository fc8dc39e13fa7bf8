package web

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/redaside/aside/internal/statuspage"
)

const (
	eventsEvery    = time.Second
	maxViewers     = 1000            // streams at once, and no more than half of all connections
	viewerPatience = 5 * time.Second // for one event to be taken
	mostRefusals   = 100             // that an event has
)

// hub tells all viewers the same: it makes one snapshot, in one piece of bytes, for however many
// there are, and none for none. A viewer that has not taken the event before the last is dropped;
// its browser connects again when it can. Safe for concurrent use.
type hub struct {
	snapshot func() statuspage.Status // immutable, as are the next ones
	tick     func()                   // each second, with or without viewers
	most     int                      // viewers
	hurried  chan struct{}            // has room for one: tell them now
	stop     chan struct{}            // closed by close
	running  sync.WaitGroup

	mu   sync.Mutex               // guards all below
	all  map[chan []byte]struct{} // one for each viewer; closed, and removed, when it is dropped
	over bool                     // close was called
}

func newHub(snapshot func() statuspage.Status, tick func(), connections int) *hub {
	return &hub{snapshot: snapshot, tick: tick, most: min(maxViewers, (connections+1)/2), hurried: make(chan struct{}, 1), stop: make(chan struct{}), all: make(map[chan []byte]struct{})}
}

func (h *hub) start() {
	h.running.Go(h.run) // ends with close
}

// run is the one ticker.
func (h *hub) run() {
	ticker := time.NewTicker(eventsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-h.stop:
			return
		case <-ticker.C:
			h.tick()
		case <-h.hurried:
		}
		if h.viewers() > 0 {
			h.tell(eventOf(h.snapshot()))
		}
	}
}

// hurry has all viewers told now, not at the next tick.
func (h *hub) hurry() {
	select {
	case h.hurried <- struct{}{}:
	default:
	}
}

func (h *hub) tell(event []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for viewer := range h.all {
		select {
		case viewer <- event:
		default:
			delete(h.all, viewer)
			close(viewer)
		}
	}
}

// join adds a viewer. False: there are too many, or it is over.
func (h *hub) join() (chan []byte, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || len(h.all) >= h.most {
		return nil, false
	}
	viewer := make(chan []byte, 2) // the event that it is writing is in neither
	h.all[viewer] = struct{}{}
	h.running.Add(1)
	return viewer, true
}

func (h *hub) leave(viewer chan []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.all, viewer)
	h.running.Done()
}

func (h *hub) viewers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.all)
}

// close ends the ticker and sends all viewers away.
func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	close(h.stop)
}

func (h *hub) wait() { h.running.Wait() }

// eventOf writes a snapshot as a server-sent event.
func eventOf(st statuspage.Status) []byte {
	data, err := json.Marshal(st) // has no newline in it
	if err != nil {
		panic(fmt.Errorf("a status is not JSON: %w", err))
	}
	var event bytes.Buffer
	event.Grow(len(data) + 32)
	event.WriteString("event: status\ndata: ")
	event.Write(data)
	event.WriteString("\n\n")
	return event.Bytes()
}

// snapshot is what the page shows now.
func (s *Server) snapshot() statuspage.Status {
	now := time.Now()
	st := s.watch.Snapshot(s.mode.refresh(s.client))
	st.Latency = map[string]statuspage.Latencies{"http": s.metrics.http.latencies(now), "resp": s.metrics.resp.latencies(now)}
	if s.o.RESP != nil {
		st.RESP = new(statuspage.RESP)
		st.RESP.Connections, st.RESP.Commands = s.o.RESP()
	}
	if s.o.Refusals != nil {
		all := s.o.Refusals()
		st.Refusals = all[:min(len(all), mostRefusals)]
	}
	if s.o.Checked != nil {
		all := s.o.Checked()
		st.Checked = all[:min(len(all), mostRefusals)]
	}
	return st
}

// serveEvents sends a snapshot at once, then one every second and after each change of mode, until
// the viewer leaves or Close.
func (x *exchange) serveEvents() {
	if x.auth != nil && !x.auth.page(x.r) {
		x.unauthorized()
		return
	}
	if !x.allow(http.MethodGet) {
		return
	}
	viewer, ok := x.hub.join()
	if !ok {
		if x.draining.Load() {
			x.fail(problem{problemStopping, "events have ended; look elsewhere"})
			return
		}
		x.fail(problem{problemBusy, fmt.Sprintf("events: %d viewers are connected already; close some, or read /metrics", x.hub.most)})
		return
	}
	defer x.hub.leave(viewer)
	h := x.w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Accel-Buffering", "no") // a proxy before us must not keep events back
	x.answer(http.StatusOK)
	if !x.send(append([]byte("retry: 1000\n\n"), eventOf(x.snapshot())...)) {
		return
	}
	for {
		select {
		case event, ok := <-viewer:
			if !ok || x.token.Load() != x.auth || !x.send(event) {
				return
			}
		case <-x.hub.stop:
			return
		case <-x.r.Context().Done():
			return
		}
	}
}

// send writes an event and reports whether the viewer has taken it.
func (x *exchange) send(event []byte) bool {
	control := http.NewResponseController(x.w)
	// In place of http.Server.WriteTimeout, which is for all of an answer. Not every
	// http.ResponseWriter can; then that one holds.
	_ = control.SetWriteDeadline(time.Now().Add(viewerPatience))
	if _, err := x.w.Write(event); err != nil {
		return false
	}
	return control.Flush() == nil
}

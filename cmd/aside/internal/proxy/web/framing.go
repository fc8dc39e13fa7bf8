package web

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// framed refuses a body whose length is not known, and has the connection closed after the answer
// where it is not beyond doubt at which byte the next request begins: a proxy on the way may see
// another one there than we do (request smuggling). net/http has refused what it says is wrong
// (several lengths, codings but chunked), and leaves these to us without a trace of the headers
// that it has ignored:
//
//	Transfer-Encoding and Content-Length      it goes by the former; RFC 9112, 6.3: close the connection
//	Transfer-Encoding in HTTP/1.0             it ignores it: without Content-Length there is no body, with it the body is of that length
//
// So a connection ends after a chunked body, announced by both or not, and after each request of
// HTTP/1.0.
func (x *exchange) framed() bool {
	r := x.r
	if r.ProtoMajor > 1 {
		return true
	}
	old := !r.ProtoAtLeast(1, 1)
	if old || len(r.TransferEncoding) > 0 {
		x.w.Header().Set("Connection", "close")
	}
	if old && (r.Method == http.MethodPut || r.Method == http.MethodPost) && r.Header.Get("Content-Length") == "" {
		x.fail(invalid(errors.New("Content-Length: is missing, and HTTP/1.0 has nothing else that says where a body ends; send it, or use HTTP/1.1")))
		return false
	}
	return true
}

// wholeAndPlain refuses a PUT whose body is not the value itself, or of which it is not certain
// what it is.
func (x *exchange) wholeAndPlain() bool {
	h := x.r.Header
	if _, ok := h["Content-Range"]; ok {
		x.fail(invalid(errors.New("Content-Range: a part of a value cannot be put; send all of it")))
		return false
	}
	if types := h.Values("Content-Type"); len(types) > 1 {
		x.fail(invalid(fmt.Errorf("Content-Type: is given %d times; give it once", len(types))))
		return false
	}
	for _, line := range h.Values("Content-Encoding") {
		for coding := range strings.SplitSeq(line, ",") {
			if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
				x.fail(problem{problemMedia, fmt.Sprintf("Content-Encoding: %s would be forgotten; send the value as it is, or say so in its Content-Type",
					shortened(coding))})
				return false
			}
		}
	}
	return true
}

// Package web is the HTTP front end of `aside serve`: values under keys, an operator's endpoints,
// and the status page.
//
//	GET, HEAD    /get?key=K        the value of K; 404 when there is none (a + is a space, as in any query)
//	GET, HEAD    /v1/keys/{key}    the same; any key, percent-encoded
//	PUT          /v1/keys/{key}    stores the body, and its Content-Type if it is specific; ?ttl=90s or ?ttl=90, none for no expiry
//	DELETE       /v1/keys/{key}
//	POST         /v1/mget          {"keys": ["a", "b"]}
//	GET          /                 the status page
//	GET          /events           what it shows, as server-sent events
//	GET          /healthz          200 as long as the process lives
//	GET          /readyz           200 unless the server is about to stop; also while Redis is away, and says so
//	GET          /metrics          for Prometheus
//	POST         /drill?fraction=F for as long as the caller stays, reads of a share F of the keys are answered as in an outage
//	GET          /debug/pprof/     with Options.Pprof only
//
// # Keys
//
// The rest of the path behind /v1/keys/ is the key, byte by byte once its percent-encoding is
// undone: slashes, empty segments and dots are parts of it like any others, nothing is cleaned or
// redirected. [KeyPath] makes such a path. Browsers and curl (without --path-as-is) resolve the
// segments "." and ".." before they send anything; a key that has them is read by /get?key=.
//
// # Answers
//
// A value comes with a strong ETag of its bytes, its Age (seconds since it was read from Redis, or
// set here), and a Cache-Status (RFC 9211) with the tier that it is from and its ttl: "aside; hit;
// detail=memory; ttl=42". While Redis is not healthy, successful answers carry Aside-Mode:
// degraded, or recovering; that header is at most 100 ms behind. Errors are problem details (RFC
// 9457), of the types in problem.go, and say what to do. A write with If-Match and the like is
// refused (501): Redis would have to compare and write in one step, which is impossible while it is
// away.
//
// A stored value may be a page with scripts in it, and the status page shares its origin: so values
// come with nosniff and a Content-Security-Policy that runs nothing.
//
// # Authentication
//
// With a Token everything but /healthz and /readyz asks for "Authorization: Bearer TOKEN". The
// status page may be opened by /?token=TOKEN, or by typing the token into the form that is shown
// otherwise: both set a cookie (HttpOnly, SameSite=Strict) that opens the page, its events and
// /metrics, and nothing else. It is derived from the token, and so valid until the token changes.
//
// Pages of other origins are kept out in any case: they may not write (their browser says where
// they are from), and without a Token a request by loopback under a name that is not loopback's is
// refused.
//
// # Limits
//
// At most Options.Concurrent requests are at work in the Store at a time; further ones wait. As
// many bodies are being received at a time, each for RequestTimeout at most: slow senders delay
// other senders for that long, and no readers. Writing an answer counts as neither, so slow readers
// cost memory and delay nothing. The operator's pages (status, metrics, health) are outside of
// these limits. [Server.HTTPServer] has the limits for slow clients.
package web

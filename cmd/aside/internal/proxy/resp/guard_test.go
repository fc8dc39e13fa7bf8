package resp

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

var testLimits = limits{bulk: 1 << 20, request: 4 << 20}

// readAll reads requests until there are no more, or something is wrong.
func readAll(source io.Reader, stranger bool) (all [][]string, err error) {
	g := guard{source: source, wait: func() error { return nil }, intern: intern, limits: testLimits, stranger: stranger}
	for {
		args, err := g.next()
		if err != nil {
			return all, err
		}
		if g.refusal != "" {
			args = []string{g.refusal}
		}
		all = append(all, append([]string(nil), args...))
	}
}

func TestWhatIsNoRequestIsRefusedInRedissWords(t *testing.T) {
	for text, want := range map[string]string{
		"*x\r\n":                          "invalid multibulk length",
		"*01\r\n":                         "invalid multibulk length",
		"*+1\r\n":                         "invalid multibulk length",
		"*\r\n":                           "invalid multibulk length",
		"*1048577\r\n":                    "invalid multibulk length",
		"*9223372036854775808\r\n":        "invalid multibulk length",
		"*99999999999999999999999999\r\n": "invalid multibulk length",
		"*1\r\nPING\r\n":                  "expected '$', got 'P'",
		"*1\r\n\r\n":                      "expected '$', got '\r'",
		"*1\r\n:1\r\n":                    "expected '$', got ':'",
		"*1\r\n$-1\r\n":                   "invalid bulk length",
		"*1\r\n$x\r\n":                    "invalid bulk length",
		"*1\r\n$\r\n":                     "invalid bulk length",
		"*1\r\n$536870913\r\n":            "invalid bulk length",
		"*1\r\n$9223372036854775807\r\n":  "invalid bulk length",
		"*1\r\n$4\r\nPINGxx":              "expected the end of a line after a bulk string",
		"*1\r\n$1048577\r\n" + strings.Repeat("x", 1<<20+1) + "xx": "expected the end of a line after a bulk string",
		strings.Repeat("x", maxLine+1):                             "too big inline request",
		"*" + strings.Repeat("1", maxLine+1):                       "too big mbulk count string",
		"*1\r\n$" + strings.Repeat("1", maxLine+1):                 "too big bulk count string",
		`SET a "b` + "\r\n":                                        "unbalanced quotes in request",
		`SET a "b"c` + "\r\n":                                      "unbalanced quotes in request",
		`SET a 'b` + "\r\n":                                        "unbalanced quotes in request",
		"POST /admin HTTP/1.1\r\n":                                 "this is not an HTTP server",
		"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n":                "this is not an HTTP server",
	} {
		for _, source := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text))} {
			_, err := readAll(source, false)
			require.Equal(t, protocolError(want), err, "%.40q", text)
		}
	}
}

func TestWhatIsARequestIsRead(t *testing.T) {
	long := strings.Repeat("0123456789", 100_000)
	for text, want := range map[string][][]string{
		"*1\r\n$4\r\nping\r\n":                                                 {{"PING"}}, // a known name needs no memory
		"*0\r\n*-1\r\n*-5\r\n\r\n  \r\n*1\r\n$4\r\nPING\r\n":                   {{"PING"}},
		"*2\r\n$3\r\nGET\r\n$0\r\n\r\n":                                        {{"GET", ""}},
		"PING\r\nPING\nEcho a\r\n":                                             {{"PING"}, {"PING"}, {"ECHO", "a"}},
		"unknown  'it\\'s' \"\\x41\\n\\\"\" x\"y\"\r\n":                        {{"unknown", "it's", "A\n\"", "xy"}},
		"a \"\" ''\r\n":                                                        {{"a", "", ""}},
		"*2\r\n$4\r\nECHO\r\n$1000000\r\n" + long + "\r\n*1\r\n$4\r\nQUIT\r\n": {{"ECHO", long}, {"QUIT"}},
		"*1\r\n$2\r\n\r\n\r\n":                                                 {{"\r\n"}},
		strings.Repeat("x", maxLine) + "\n":                                    {{strings.Repeat("x", maxLine)}},
	} {
		for _, source := range []io.Reader{strings.NewReader(text), iotest.OneByteReader(strings.NewReader(text)), iotest.DataErrReader(strings.NewReader(text))} {
			all, err := readAll(source, false)
			require.Equal(t, io.EOF, err, "%.40q", text)
			require.Equal(t, want, all, "%.40q", text)
		}
	}
	for _, half := range []string{"*", "*1", "*1\r", "*1\r\n", "*1\r\n$4\r\nPI", "*1\r\n$4\r\nPING", "*1\r\n$4\r\nPING\r", "PING"} {
		all, err := readAll(strings.NewReader(half), false)
		require.Equal(t, io.ErrUnexpectedEOF, err, "%q", half)
		require.Empty(t, all)
	}
}

func TestAStrangerMayClaimLittle(t *testing.T) {
	_, err := readAll(strings.NewReader("*11\r\n"), true)
	require.Equal(t, protocolError("unauthenticated multibulk length"), err)
	_, err = readAll(strings.NewReader("*1\r\n$16385\r\n"), true)
	require.Equal(t, protocolError("unauthenticated bulk length"), err)
	all, err := readAll(strings.NewReader(encoded("AUTH", strings.Repeat("p", 16384))), true)
	require.Equal(t, io.EOF, err)
	require.Len(t, all, 1)
}

// A relapse would take a gigabyte at the word of each of 1,000 clients.
func TestALengthIsNoReasonToTakeMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	guards := make([]*guard, 1000)
	for i := range guards {
		guards[i] = &guard{
			source: strings.NewReader("*1000000\r\n$1000000000\r\nhello"), wait: func() error { return nil }, intern: intern,
			limits: limits{bulk: 1 << 30, request: 1 << 31},
		}
		_, err := guards[i].next()
		require.Equal(t, io.ErrUnexpectedEOF, err)
	}
	runtime.ReadMemStats(&after)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(20<<20))
	runtime.KeepAlive(guards)
}

// What is refused here Redis refuses too, in the same words; and where it says nothing, so do we.
func TestProtocolErrorsAreThoseOfRedis(t *testing.T) {
	w := newTwins(t, "2")
	for _, text := range []string{
		"*x\r\n", "*1\r\nPING\r\n", "*1\r\n:1\r\n", "*1\r\n$-1\r\n", "*1\r\n$x\r\n", "*1\r\n$9999999999\r\n", "*99999999999\r\n",
		strings.Repeat("x", 80_000), "*" + strings.Repeat("1", 80_000),
		"*1\r\n$" + strings.Repeat("1", 80_000), "ECHO \"a\r\n", "ECHO 'a'b\r\n",
		"*0\r\nQUIT\r\n", "*-1\r\nQUIT\r\n", "\r\nQUIT\r\n", "ECHO \"\\x41b\\n\" x\r\nQUIT\r\n", "echo \"a b\"\r\nquit\r\n",
		"PING\r\nECHO\r\nGET\r\nnonsense 'a b' c\r\nQUIT\r\n",
		"*1\r\n$4\r\nPING\r\n*x\r\n",
	} {
		direct, proxied := dial(t, w.direct.RemoteAddr().String()), dial(t, w.proxy.RemoteAddr().String())
		direct.send(text)
		proxied.send(text)
		require.Equal(t, direct.closed(), proxied.closed(), "%.40q", text)
	}
}

// chunked gives its bytes out in pieces of the sizes that cuts says.
type chunked struct {
	data []byte
	cuts []byte
	i    int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := 1
	if len(c.cuts) > 0 {
		n = 1 + int(c.cuts[c.i%len(c.cuts)])
		c.i++
	}
	n = copy(p[:min(n, len(p))], c.data)
	c.data = c.data[n:]
	return n, nil
}

// However bytes arrive, the same requests are read of them; each is within the limits, and, said in
// the protocol's own way, is read again as it was.
func FuzzGuard(f *testing.F) {
	for _, seed := range []string{
		"*1\r\n$4\r\nPING\r\n", "*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n", "*0\r\n*-1\r\n", "*1\r\n$-1\r\n",
		"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$100\r\nx", "GET 'a\\'b' \"\\x00\"\r\n", "\r\n\r\n*1\r\n$0\r\n\r\n", "$5\r\nhello\r\n",
		"*1\r\n$99999999999999999999\r\n", "*1048577\r\n", "POST / HTTP/1.1\r\n",
	} {
		f.Add([]byte(seed), []byte{0, 3, 1}, false)
		f.Add([]byte(seed), []byte{255}, true)
	}
	f.Fuzz(func(t *testing.T, data, cuts []byte, stranger bool) {
		whole, wholeErr := readAll(bytes.NewReader(data), stranger)
		pieces, piecesErr := readAll(&chunked{data: data, cuts: cuts}, stranger)
		require.Equal(t, whole, pieces)
		require.Equal(t, wholeErr, piecesErr)
		var wrong protocolError
		require.True(t, errors.As(wholeErr, &wrong) || errors.Is(wholeErr, io.EOF) || errors.Is(wholeErr, io.ErrUnexpectedEOF), "%v", wholeErr)
		var again bytes.Buffer
		for _, args := range whole {
			require.NotEmpty(t, args)
			sum := 0
			for _, arg := range args {
				require.LessOrEqual(t, len(arg), testLimits.bulk)
				sum += len(arg)
			}
			require.LessOrEqual(t, sum, testLimits.request)
			again.WriteString(encoded(args...))
		}
		repeated, err := readAll(&again, false)
		require.Equal(t, io.EOF, err)
		require.Equal(t, whole, repeated)
	})
}

// Any bytes may be sent to a server that is at work, and others are served.
func TestRandomBytesHurtNobody(t *testing.T) {
	store, _ := newStore(t, redistest.Start(t).Addr(), "")
	s, addr := serve(t, store, Options{})
	random := rand.New(rand.NewPCG(4, 4))
	parts := []string{
		"*", "$", "\r\n", "1", "-1", "3", "SET", "GET", "a", "\x00", "\"", "999999999",
		"*2\r\n$3\r\nGET\r\n$1\r\na\r\n", "*1\r\n", "$4\r\nPING\r\n", "HELLO 3\r\n",
	}
	neighbour := dial(t, addr)
	for range 300 {
		p := dial(t, addr)
		var text strings.Builder
		for range random.IntN(200) {
			if random.IntN(4) == 0 {
				text.WriteByte(byte(random.Uint32()))
			} else {
				text.WriteString(parts[random.IntN(len(parts))])
			}
		}
		_, _ = io.WriteString(p, text.String()) // it may be refused in the middle of it
		p.Close()
		require.Equal(t, "+PONG", neighbour.do("PING"))
	}
	eventually(t, "they are gone", func() bool { return s.Stats().Connected == 1 })
	require.Zero(t, s.Stats().Panics)
	require.Positive(t, s.Stats().ProtocolErrors)
}

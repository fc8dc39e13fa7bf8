package upstream

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

func framesOf(text string, share *proxy.Share) frameReader {
	return frameReader{bufio.NewReaderSize(strings.NewReader(text), 16), share}
}

var replies = []string{
	"+OK\r\n", "-ERR no\r\n", ":42\r\n", "$5\r\nhello\r\n", "$0\r\n\r\n", "$-1\r\n", "*-1\r\n", "*0\r\n", "*2\r\n:1\r\n*1\r\n$1\r\na\r\n", "_\r\n", "#t\r\n", ",1.5\r\n",
	"(123456789012345678901234567890\r\n", "%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n", "~2\r\n:1\r\n:2\r\n", ">2\r\n+message\r\n+hi\r\n", "=7\r\ntxt:abc\r\n", "!5\r\nERR x\r\n",
	"|1\r\n+ttl\r\n:3\r\n$1\r\na\r\n", "$4\r\n\r\n\r\n\r\n", "+" + strings.Repeat("long", 100) + "\r\n",
}

func TestARepliesBytesAreWhatWasSent(t *testing.T) {
	all := strings.Join(replies, "")
	frames := framesOf(all, nil)
	var got []byte
	for _, reply := range replies {
		begin := len(got)
		var kind byte
		var tooLarge bool
		var err error
		got, kind, tooLarge, err = frames.next(got)
		require.NoError(t, err, "%q", reply)
		require.False(t, tooLarge)
		require.Equal(t, reply, string(got[begin:]))
		if reply[0] != '|' {
			require.Equal(t, reply[0], kind)
		} else {
			require.EqualValues(t, '$', kind, "what the attributes are about")
		}
	}
	_, _, _, err := frames.next(got)
	require.ErrorIs(t, err, io.EOF)
}

func TestAReplyForWhichThereIsNoRoomIsReadAway(t *testing.T) {
	budget := proxy.NewBudget(1)
	share := budget.Share()
	require.True(t, share.Hold(proxy.FreeBytes), "what is free is used up")
	for _, reply := range replies {
		if len(reply) < 4 {
			continue
		}
		frames := framesOf(reply+"+OK\r\n", &share)
		got, _, tooLarge, err := frames.next([]byte("before"))
		require.NoError(t, err)
		require.True(t, tooLarge, "%q", reply)
		require.Equal(t, "before", string(got))
		frames.share = nil
		got, _, _, err = frames.next(nil)
		require.NoError(t, err)
		require.Equal(t, "+OK\r\n", string(got))
	}
}

// A script can answer with a line of any length. A relapse would end a connection that clients share.
func TestATooLongLineIsReadAway(t *testing.T) {
	for more := range 40 { // however it is cut into pieces
		frames := framesOf("*2\r\n-"+strings.Repeat("x", mostLine+more)+"\r\n:1\r\n+OK\r\n", nil)
		got, kind, tooLarge, err := frames.next([]byte("before"))
		require.NoError(t, err)
		require.True(t, tooLarge)
		require.EqualValues(t, '*', kind)
		require.Equal(t, "before", string(got))
		got, _, _, err = frames.next(nil)
		require.NoError(t, err)
		require.Equal(t, "+OK\r\n", string(got))
	}
}

func TestWhatIsNoReplyEndsTheConnection(t *testing.T) {
	for _, text := range []string{"x\r\n", "\r\n", "+OK\n", "$x\r\n", "$-2\r\n", "*99999999999\r\n", "$536870913\r\n", "?1\r\n", "$?\r\n", "*1\r\n\r\n", "*" + strings.Repeat("x", mostLine+1) + "1\r\n", "+" + strings.Repeat("x", mostLine+1) + "\n"} {
		frames := framesOf(text, nil)
		_, _, _, err := frames.next(nil)
		require.ErrorIs(t, err, errProtocol, "%.20q", text)
	}
}

func FuzzReplies(f *testing.F) {
	for _, reply := range replies {
		f.Add([]byte(reply))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		frames := frameReader{bufio.NewReaderSize(bytes.NewReader(data), 16), nil}
		got, _, _, err := frames.next(nil)
		if err == nil && !bytes.HasPrefix(data, got) {
			t.Fatalf("%q has become %q", data, got)
		}
		if err == nil {
			_, _, _ = decode(got)
		}
	})
}

package resp

import (
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An absolute end does not move by how long Redis is busy.
func TestAnAbsoluteEndStaysWhatItIs(t *testing.T) {
	w := newTwins(t, "3")
	second := time.Now().Add(time.Hour).Unix()
	for i, c := range []struct {
		command []string
		end     int64 // in ms
	}{
		{[]string{"SET", "k", "v", "PXAT"}, second*1000 + 123},
		{[]string{"SET", "k", "v", "EXAT"}, second * 1000},
		{[]string{"SET", "k", "v", "XX", "PXAT"}, second*1000 + 456},
		{[]string{"GETEX", "k", "PXAT"}, second*1000 + 789},
		{[]string{"GETEX", "k", "EXAT"}, second*1000 + 2000},
	} {
		amount := c.end
		if c.command[len(c.command)-1] == "EXAT" {
			amount /= 1000
		}
		require.Equal(t, "OK", w.behind.Do("CLIENT", "PAUSE", "100"))
		reply := w.proxy.do(append(c.command, strconv.FormatInt(amount, 10))...)
		require.NotContains(t, reply, "-", "%d", i)
		require.Equal(t, c.end, w.behind.Do("PEXPIRETIME", "k"), "%d: %v", i, c.command)
	}
}

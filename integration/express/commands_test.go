package express_test

import (
	"bufio"
	"cmp"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// ask sends a command over a connection of its own, and returns the first line of the answer.
func ask(t *testing.T, address string, words []string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, strings.Join(words, " ")+"\r\n")
	require.NoError(t, err)
	line, err := bufio.NewReader(conn).ReadString('\n')
	require.NoError(t, err, "%v", words)
	return strings.TrimSpace(line)
}

// otherwise are the commands that the proxy answers in its own way, with what docs/PROXY.md says of them.
var otherwise = map[string]string{
	"CLIENT NO-TOUCH": "`CLIENT NO-TOUCH` and `NO-EVICT`",
	"CLIENT PAUSE":    "`CLIENT PAUSE` is refused", "CLIENT UNPAUSE": "`CLIENT PAUSE` is refused",
	"CLIENT CACHING": "`CLIENT TRACKING`", // without it, each has an error of its own
	"CLUSTER":        "`CLUSTER`, `READONLY`", "PFDEBUG": "pfdebug", "WAIT": "**`WAIT`** and `WAITAOF` are refused",
	"WAITAOF": "**`WAIT`** and `WAITAOF` are refused", "SCRIPT DEBUG": "`SCRIPT DEBUG`",
	"SYNC": "`WAIT SYNC`", "PSYNC": "`WAIT SYNC`", "REPLCONF": "`WAIT SYNC`",
}

// Every command that ioredis and node-redis have a method for is known to the proxy if it is known to the
// server behind: sent without arguments, it gets the server's own error, word for word, or an answer of the
// same kind. What is denied, as FLUSHALL is, says so.
func TestEachCommandOfTheClientsIsServed(t *testing.T) {
	install(t)
	list := exec.Command("node", "commands.js")
	list.Dir = "app"
	out, err := list.Output()
	require.NoError(t, err)
	server := redistest.Start(t)
	p := startProxy(t, build(t), redistest.Start(t).Addr())
	page, err := os.ReadFile("../../docs/PROXY.md")
	require.NoError(t, err)
	known, unknown, denied := 0, 0, 0
	var differ []string
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		through := ask(t, p.resp, words)
		if strings.Contains(through, "this proxy does not pass on") {
			denied++
			continue
		}
		bare := ask(t, server.Addr(), words)
		if strings.HasPrefix(bare, "-ERR unknown command") {
			unknown++ // of modules, or later versions
		} else {
			known++
		}
		if says := cmp.Or(otherwise[strings.TrimSpace(line)], otherwise[words[0]]); says != "" {
			require.Contains(t, string(page), says)
			continue
		}
		if bare[0] == '-' && bare != through || bare[0] != through[0] {
			differ = append(differ, fmt.Sprintf("%v: Redis says %s, and the proxy %s", words, bare, through))
		}
	}
	require.Empty(t, differ)
	t.Logf("%d commands of the clients are answered as by Redis, %d are denied, %d this Redis does not know", known, denied, unknown)
	require.Greater(t, known, 200)
}

package express_test

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

var howLong = flag.Duration("for", 9*time.Second, "how long visitors use the shop; a third of it without Redis")

// patience bounds every wait for something that has to happen. It proves nothing about speed.
const patience = time.Minute

// durable has Redis lose nothing that it has acknowledged, as nothing less can be asked of a proxy.
func durable() redistest.Option {
	return redistest.WithArgs("--appendonly", "yes", "--appendfsync", "always")
}

// install gets what the application needs, unless that was done.
func install(t *testing.T) {
	t.Helper()
	if _, err := os.Stat("app/node_modules/.package-lock.json"); err == nil {
		return
	}
	cmd := exec.Command("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	cmd.Dir = "app"
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "npm ci, which needs node 20 or later and npm: %s", out)
}

// suite runs the application's own tests, and returns how many have passed.
func suite(t *testing.T, redis string) int {
	t.Helper()
	cmd := exec.Command("npm", "test", "--silent")
	cmd.Dir = "app"
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+redis, "NODE_OPTIONS=")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	m := regexp.MustCompile(`(?m)^\S+ pass (\d+)$`).FindSubmatch(out)
	require.NotNil(t, m, "%s", out)
	passed, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	require.Positive(t, passed)
	return passed
}

// process is one that was started for the test, and ends with it.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{}
	output *harness.Buffer
}

// launch starts a program, and returns once it has said what is looked for, with what that has found.
func launch(t *testing.T, cmd *exec.Cmd, says *regexp.Regexp) (*process, []string) {
	t.Helper()
	p := &process{cmd: cmd, exited: make(chan struct{}), output: new(harness.Buffer)}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = p.output
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	found := make(chan []string, 1)
	go func() { // ends with the program
		defer close(p.exited)
		said := ""
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			_, _ = fmt.Fprintln(p.output, lines.Text()) // into memory
			if found == nil {
				continue
			}
			said += lines.Text() + "\n"
			if m := says.FindStringSubmatch(said); m != nil {
				found <- m
				found = nil
			}
		}
		_ = cmd.Wait() // how it ended is asked of its state
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(patience):
			t.Errorf("%s does not end: %s", cmd.Path, p.output)
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("%s has said:\n%s", filepath.Base(cmd.Path), p.output)
		}
	})
	select {
	case m := <-found:
		return p, m
	case <-p.exited:
		t.Fatalf("%s has ended: %s", cmd.Path, p.output)
	case <-time.After(patience):
		t.Fatalf("%s does not say that it serves: %s", cmd.Path, p.output)
	}
	return nil, nil
}

// alive checks that the program has not ended.
func (p *process) alive(t *testing.T, what string) {
	t.Helper()
	select {
	case <-p.exited:
		t.Fatalf("%s has ended: %s", what, p.output)
	default:
	}
}

// proxy is `aside serve` before a server.
type proxy struct {
	*process

	http, resp string
}

func build(t *testing.T) (program string) {
	t.Helper()
	program = filepath.Join(t.TempDir(), "aside")
	cmd := exec.Command("go", "build", "-o", program, ".")
	cmd.Dir = "../../cmd/aside" // with the versions in that module's go.mod
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return program
}

func startProxy(t *testing.T, program, redis string, flags ...string) proxy {
	t.Helper()
	args := []string{"serve", "--redis", "redis://" + redis, "--port", "0", "--resp-port", "0", "--fallback-dir", filepath.Join(t.TempDir(), "fallback")}
	p, m := launch(t, exec.Command(program, append(args, flags...)...), regexp.MustCompile(`HTTP +http://(\S+)/ [^\n]*\n +RESP +(\S+)`))
	return proxy{p, m[1], m[2]}
}

func startShop(t *testing.T, redis string) (shop *process, address string) {
	t.Helper()
	cmd := exec.Command("node", "src/server.js")
	cmd.Dir = "app"
	cmd.Env = append(os.Environ(), "REDIS_URL=redis://"+redis, "PORT=0")
	shop, m := launch(t, cmd, regexp.MustCompile(`listening at (\d+)`))
	return shop, "http://127.0.0.1:" + m[1]
}

// refusal is a line of the page.
type refusal struct {
	Command string `json:"command"`
	Client  string `json:"client"`
	Count   int64  `json:"count"`
	Example string `json:"example"`
}

// status is what the proxy's page shows.
func (p proxy) status(t *testing.T) (st struct {
	Mode    string `json:"mode"`
	Backlog struct {
		Sets    int `json:"sets"`
		Deletes int `json:"deletes"`
	} `json:"backlog"`
	Refusals []refusal `json:"refusals"`
}) {
	t.Helper()
	response, err := http.Get("http://" + p.http + "/events")
	require.NoError(t, err)
	defer response.Body.Close()
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
			require.NoError(t, json.Unmarshal([]byte(data), &st))
			return st
		}
	}
	t.Fatal("the page has no data")
	return st
}

func (p proxy) await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
		p.alive(t, "the proxy")
		require.True(t, time.Now().Before(deadline), "it never came to be that %s", what)
	}
}

func TestAnApplicationThatKnowsNothingOfTheProxy(t *testing.T) {
	itself := redistest.Start(t, durable())
	install(t)
	program := build(t)
	bare := suite(t, itself.Addr())

	// A machine that has much else to do must not look like a Redis that hangs.
	p := startProxy(t, program, redistest.Start(t, durable()).Addr(), "--redis-timeout", "10s")
	require.Equal(t, bare, suite(t, p.resp), "other tests pass against the proxy than against Redis")
	for _, answers := range []string{"refuse", "local"} {
		t.Run("kept answers "+answers, func(t *testing.T) { shopThrough(t, program, answers) })
	}
	t.Logf("%d tests pass against Redis and against the proxy", bare)
}

// shopThrough has visitors use the shop before an outage, in it, and after it. answers is the proxy's setting of what
// counts in an outage.
func shopThrough(t *testing.T, program, answers string) {
	server := redistest.Start(t, durable())
	p := startProxy(t, program, server.Addr(), "--redis-timeout", "1s", "--kept-answers", answers)
	shop, address := startShop(t, p.resp)
	v := open(t, address)
	v.visit(*howLong/3, well)
	server.Kill()
	p.await(t, "Redis is away", func() bool { return p.status(t).Mode == "degraded" })
	v.visit(*howLong/3, away)
	refused := p.status(t).Refusals
	server.RestartKeepingData()
	p.await(t, "all is replayed", func() bool {
		st := p.status(t)
		return st.Mode == "healthy" && st.Backlog.Sets+st.Backlog.Deletes == 0
	})
	v.visit(*howLong/3, back)
	shop.alive(t, "the shop")
	v.leave()

	for _, name := range v.goOn(answers) {
		require.Zero(t, v.acts[name].failed[away], "%s is refused in an outage: %s", name, v.acts[name].error[away])
		require.Positive(t, v.acts[name].done[away], name)
	}
	for _, name := range v.names {
		require.Zero(t, v.acts[name].failed[back], "%s does not work again: %s", name, v.acts[name].error[back])
		require.Positive(t, v.acts[name].done[back], name)
	}
	v.check(t, server)
	told := make(map[string]bool)
	var page strings.Builder
	for _, r := range refused {
		told[r.Command] = true
		fmt.Fprintf(&page, "%-14s %-14s %6d  %s\n", r.Command, r.Client, r.Count, r.Example)
	}
	for _, command := range []string{"ZINCRBY", "EVALSHA"} {
		require.True(t, told[command], "the page does not say that %s was refused: %v", command, refused)
	}
	t.Logf("visitors of %v, a third of it without Redis:\n%s\nrefused, as the page says:\n%s", *howLong, v.table(), page.String())
}

package redistest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redaside/aside/internal/faultproxy"
)

// binary is a server process of our own.
type binary struct {
	settings
	program string
	config  string // file to read first; "" if none
	dir     string // <dir>/data is what Restart empties; the rest outlives it
	port    int
	log     tail

	cmd    *exec.Cmd
	exited chan struct{} // closed when cmd has ended and has been waited for
}

var (
	errPortTaken = errors.New("somebody else listens on the port")
	errNoTLS     = errors.New("the server was built without TLS")
)

func startBinary(t testing.TB, program string, set settings) *Server {
	t.Helper()
	b := &binary{settings: set, program: program, dir: t.TempDir()}
	if set.tls {
		b.createCertificate(t)
	}
	return b.serve(t)
}

// serve starts the process for the first time and ends it with the test.
func (b *binary) serve(t testing.TB) *Server {
	t.Helper()
	t.Cleanup(func() {
		if err := b.kill(); err != nil {
			t.Errorf("redistest: %v", err)
		}
		if t.Failed() {
			t.Logf("log of %s on port %d:\n%s", b.program, b.port, b.log.String())
		}
	})
	// The port is ours among all users of ReservePort; strangers are rare.
	var err error
	for range 5 {
		b.port = faultproxy.ReservePort(t)
		if err = b.start(true); !errors.Is(err, errPortTaken) {
			break
		}
	}
	switch {
	case errors.Is(err, errNoTLS):
		Skip(t, fmt.Sprintf("redistest: %s has no TLS", b.program))
	case err != nil:
		t.Fatalf("redistest: %v", err)
	}
	return newServer(t, b.settings, b)
}

func (b *binary) addr() string   { return fmt.Sprintf("127.0.0.1:%d", b.port) }
func (b *binary) direct() string { return b.addr() }
func (b *binary) signals() bool  { return true }

func (b *binary) freeze() error {
	if err := b.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	// The signal is sent, not yet obeyed. "T" in /proc says that it is; elsewhere than on Linux a
	// moment must do.
	for range 100 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
		if _, after, ok := strings.Cut(string(stat), ") "); err == nil && ok && after[0] == 'T' {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

func (b *binary) thaw() error { return b.cmd.Process.Signal(syscall.SIGCONT) }

func (b *binary) kill() error {
	if b.cmd == nil {
		return nil
	}
	if err := b.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-b.exited
	return nil
}

func (b *binary) start(empty bool) error {
	data := filepath.Join(b.dir, "data")
	if empty {
		if err := os.RemoveAll(data); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	if err := b.launch(); err != nil {
		return err
	}
	if err := b.awaitReady(); err != nil {
		return errors.Join(err, b.kill())
	}
	return nil
}

func (b *binary) arguments() []string {
	var args []string
	if b.config != "" {
		args = append(args, b.config)
	}
	port := strconv.Itoa(b.port)
	args = append(args, "--bind", "127.0.0.1", "--dir", filepath.Join(b.dir, "data"))
	if b.tls {
		cert, key := filepath.Join(b.dir, "cert.pem"), filepath.Join(b.dir, "key.pem")
		args = append(args, "--port", "0", "--tls-port", port, "--tls-auth-clients", "no",
			"--tls-cert-file", cert, "--tls-key-file", key, "--tls-ca-cert-file", cert)
	} else {
		args = append(args, "--port", port)
	}
	if b.config == "" { // otherwise it is a Sentinel, which knows none of these
		args = append(args, "--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0")
		if majorVersion(b.program) >= 7 { // before, DEBUG was always allowed and this a fatal error
			args = append(args, "--enable-debug-command", "yes")
		}
	}
	return append(args, b.args...)
}

// launch starts a process and a goroutine that waits for its end.
func (b *binary) launch() error {
	cmd := exec.Command(b.program, b.arguments()...)
	cmd.Stdout, cmd.Stderr = &b.log, &b.log
	dieWithUs(cmd)
	exited, started := make(chan struct{}), make(chan error)
	go func() { // ends with the process, which kill sees to
		defer close(exited)
		// "With us" means for Linux: with the thread that started the process. So keep the thread
		// here until then.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	b.cmd, b.exited = cmd, exited
	return nil
}

// awaitReady polls until the process, and not a stranger on its port, answers.
func (b *binary) awaitReady() error {
	pid := strconv.Itoa(b.cmd.Process.Pid)
	deadline := time.After(readyWithin)
	var last error
	for {
		info, err := b.info(b.addr(), "server")
		switch {
		case err != nil:
			last = err
		case info["process_id"] != pid:
			last = errPortTaken
		default:
			if _, err = b.do(b.addr(), "PING"); err == nil { // an error while it loads its data
				return nil
			}
			last = err
		}
		select {
		case <-b.exited:
			switch log := b.log.String(); {
			case strings.Contains(log, "already in use"):
				return errPortTaken
			case b.tls && strings.Contains(log, "tls-"):
				return errNoTLS
			default:
				return fmt.Errorf("%s ended at once:\n%s", b.program, log)
			}
		case <-deadline:
			return fmt.Errorf("%s is not ready after %v: %w", b.program, readyWithin, last)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

var versions sync.Map // program → func() int

// majorVersion is what the program's --version says; 0 if it says nothing that we understand.
func majorVersion(program string) int {
	once, _ := versions.LoadOrStore(program, sync.OnceValue(func() int {
		out, _ := exec.Command(program, "--version").Output() // "Redis server v=7.0.15 sha=…"
		_, version, _ := strings.Cut(string(out), "v=")
		major, _, _ := strings.Cut(version, ".")
		n, _ := strconv.Atoi(major)
		return n
	}))
	return once.(func() int)()
}

// tail keeps the end of what is written to it. Safe for concurrent use.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 64 << 10

func (l *tail) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, b...)
	if n := len(l.text); n > 2*tailBytes {
		l.text = append([]byte(nil), l.text[n-tailBytes:]...)
	}
	return len(b), nil
}

func (l *tail) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

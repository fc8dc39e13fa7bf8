package withpgx

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/redistest"
)

// startPostgreSQL starts a server of the test's own, and returns its url. Yours may be a container.
func startPostgreSQL(t *testing.T) (url string) {
	t.Helper()
	bin := programs(t)
	dir, err := os.MkdirTemp("", "withpgx") //nolint:usetesting // t.TempDir lies in folders that only we may enter
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	uid := 0
	if os.Getuid() == 0 { // PostgreSQL refuses to be root
		nobody, err := user.Lookup("nobody")
		must(t, err)
		uid, err = strconv.Atoi(nobody.Uid)
		must(t, err)
		must(t, os.Chown(dir, uid, -1))
	}
	command := func(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd, said := exec.Command(filepath.Join(bin, name), args...), new(bytes.Buffer)
		asUser(cmd, uid)
		cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), "HOME="+dir), said, said
		return cmd, said
	}
	data, port := filepath.Join(dir, "data"), faultproxy.ReservePort(t)
	initdb, said := command("initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	if err := initdb.Run(); err != nil {
		t.Fatalf("initdb: %v: %s", err, said)
	}
	server, said := command("postgres", "-D", data, "-k", dir, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-c", "fsync=off")
	must(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Signal(os.Interrupt) // fast: it does not wait for clients
		_ = server.Wait()
	})
	url = fmt.Sprintf("postgres://tester@127.0.0.1:%d/postgres?sslmode=disable", port)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		conn, err := pgx.Connect(t.Context(), url)
		if err == nil {
			must(t, conn.Close(context.Background()))
			return url
		}
		if time.Now().After(deadline) {
			t.Fatalf("PostgreSQL does not answer: %v: %s", err, said)
		}
	}
}

// programs is the folder of PostgreSQL's programs, which Debian keeps out of PATH.
func programs(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs PostgreSQL")
	}
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	must(t, err)
	slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1])
	}
	path, err := exec.LookPath("initdb")
	if err != nil {
		redistest.Skip(t, "there is no initdb (apt-get install postgresql)")
	}
	return filepath.Dir(path)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

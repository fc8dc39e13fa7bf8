package dbtest

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	_ "github.com/go-sql-driver/mysql"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"
	_ "modernc.org/sqlite"

	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/internal/faultproxy"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

// database is an empty one, with the outbox table and a table of prices.
type database struct {
	dialect asidesql.Dialect
	driver  string
	dsn     string
	*sql.DB // closed when the test ends
}

// server is a database server, for all tests of a kind.
type server struct {
	port int
	log  *bytes.Buffer
}

var (
	postgres, mariadb *server
	databases         atomic.Int64
)

func TestMain(m *testing.M) {
	if os.Getenv("ASIDESQL_WRITER") != "" {
		write()
		return
	}
	code := m.Run()
	for _, stop := range stops {
		stop()
	}
	os.Exit(code)
}

var stops []func() // at the end of all tests

// eachDatabase runs test with each kind of database.
func eachDatabase(t *testing.T, test func(t *testing.T, db database)) {
	t.Run("SQLite", func(t *testing.T) { test(t, openSQLite(t)) })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, openPostgreSQL(t)) })
	t.Run("MariaDB", func(t *testing.T) { test(t, openMariaDB(t)) })
}

func openSQLite(t testing.TB) database {
	t.Helper()
	// Immediate: a transaction that reads first and writes then would otherwise fail when another
	// has written in between, whatever the busy_timeout.
	dsn := "file:" + filepath.Join(t.TempDir(), "db") + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_txlock=immediate"
	return opened(t, database{dialect: asidesql.SQLite, driver: "sqlite", dsn: dsn})
}

func openPostgreSQL(t testing.TB) database {
	t.Helper()
	notShort(t)
	if postgres == nil {
		postgres = new(server) // also if it does not start: once is enough to wait for it
		postgres = startPostgreSQL(t)
	}
	require.NotZero(t, postgres.port, "PostgreSQL has not started before")
	name := fmt.Sprintf("test%d", databases.Add(1))
	execute(t, "pgx", postgres.postgresDSN("postgres"), "CREATE DATABASE "+name)
	return opened(t, database{dialect: asidesql.PostgreSQL, driver: "pgx", dsn: postgres.postgresDSN(name)})
}

func openMariaDB(t testing.TB) database {
	t.Helper()
	notShort(t)
	if mariadb == nil {
		mariadb = new(server)
		mariadb = startMariaDB(t)
	}
	require.NotZero(t, mariadb.port, "MariaDB has not started before")
	name := fmt.Sprintf("test%d", databases.Add(1))
	execute(t, "mysql", mariadb.mysqlDSN(""), "CREATE DATABASE "+name)
	return opened(t, database{dialect: asidesql.MySQL, driver: "mysql", dsn: mariadb.mysqlDSN(name)})
}

func (s *server) postgresDSN(name string) string {
	return fmt.Sprintf("postgres://tester@127.0.0.1:%d/%s?sslmode=disable", s.port, name)
}

func (s *server) mysqlDSN(name string) string {
	return fmt.Sprintf("tester@tcp(127.0.0.1:%d)/%s", s.port, name)
}

func opened(t testing.TB, db database) database {
	t.Helper()
	db.DB = db.connect(t)
	db.exec(t, asidesql.Schema(db.dialect))
	db.exec(t, "CREATE TABLE prices (id VARCHAR(64) PRIMARY KEY, cents INTEGER NOT NULL)")
	return db
}

// connect opens the database once more.
func (d database) connect(t testing.TB) *sql.DB {
	t.Helper()
	db, err := sql.Open(d.driver, d.dsn)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func (d database) exec(t testing.TB, query string, args ...any) {
	t.Helper()
	_, err := d.ExecContext(harness.Context(t), query, args...)
	require.NoError(t, err, query)
}

// count is the number of rows in the outbox.
func (d database) count(t testing.TB) (n int) {
	t.Helper()
	require.NoError(t, d.QueryRowContext(harness.Context(t), "SELECT COUNT(*) FROM aside_outbox").Scan(&n))
	return n
}

func execute(t testing.TB, driver, dsn, statement string) {
	t.Helper()
	db, err := sql.Open(driver, dsn)
	require.NoError(t, err)
	defer db.Close()
	_, err = db.ExecContext(harness.Context(t), statement)
	require.NoError(t, err)
}

func startPostgreSQL(t testing.TB) *server {
	t.Helper()
	initdb := program(t, "initdb", "postgresql", "/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin")
	dir, uid, gid := serverDir(t)
	data := filepath.Join(dir, "data")
	run(t, uid, gid, initdb, "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	port := faultproxy.ReservePort(t)
	return start(t, port, uid, gid, func(ctx context.Context) error {
		db, err := sql.Open("pgx", (&server{port: port}).postgresDSN("postgres"))
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}, filepath.Join(filepath.Dir(initdb), "postgres"), "-D", data, "-k", dir, "-h", "127.0.0.1", "-p", strconv.Itoa(port), "-c", "fsync=off", "-c", "max_connections=200")
}

func startMariaDB(t testing.TB) *server {
	t.Helper()
	mariadbd := program(t, "mariadbd", "mariadb-server", "/usr/sbin", "/usr/libexec", "/opt/homebrew/bin")
	install := program(t, "mariadb-install-db", "mariadb-server", "/usr/bin", "/opt/homebrew/bin")
	dir, uid, gid := serverDir(t)
	data := filepath.Join(dir, "data")
	run(t, uid, gid, install, "--no-defaults", "--datadir="+data, "--auth-root-authentication-method=normal", "--skip-test-db")
	begin := filepath.Join(dir, "init.sql")
	require.NoError(t, os.WriteFile(begin, []byte("CREATE USER tester@'127.0.0.1';\nGRANT ALL ON *.* TO tester@'127.0.0.1';\n"), 0o644))
	port := faultproxy.ReservePort(t)
	return start(t, port, uid, gid, func(ctx context.Context) error {
		db, err := sql.Open("mysql", (&server{port: port}).mysqlDSN(""))
		if err != nil {
			return err
		}
		defer db.Close()
		return db.PingContext(ctx)
	}, mariadbd, "--no-defaults", "--datadir="+data, "--socket="+filepath.Join(dir, "socket"), "--bind-address=127.0.0.1", "--port="+strconv.Itoa(port),
		"--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--init-file="+begin)
}

// program finds an executable, the newest if there are several.
func program(t testing.TB, name, debian string, folders ...string) string {
	t.Helper()
	for _, folder := range folders {
		found, _ := filepath.Glob(filepath.Join(folder, name))
		slices.SortFunc(found, func(a, b string) int { return cmp.Or(len(a)-len(b), strings.Compare(a, b)) })
		if len(found) > 0 {
			return found[len(found)-1]
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	redistest.Skip(t, "there is no "+name+" (apt-get install "+debian+")")
	return ""
}

// serverDir is a folder of a user who may run a database server: these refuse to be root.
func serverDir(t testing.TB) (dir string, uid, gid int) {
	t.Helper()
	dir, err := os.MkdirTemp("", "dbtest") //nolint:usetesting // it outlives the test, and t.TempDir lies in folders that only we may enter
	require.NoError(t, err)
	stops = append([]func(){func() { _ = os.RemoveAll(dir) }}, stops...)
	if os.Getuid() != 0 {
		return dir, 0, 0
	}
	other, err := user.Lookup("nobody")
	require.NoError(t, err)
	uid, _ = strconv.Atoi(other.Uid)
	gid, _ = strconv.Atoi(other.Gid)
	require.NoError(t, os.Chown(dir, uid, gid))
	return dir, uid, gid
}

func run(t testing.TB, uid, gid int, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	asUser(cmd, uid, gid)
	cmd.Dir, cmd.Env = os.TempDir(), append(os.Environ(), "HOME="+os.TempDir())
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s: %s", name, said)
}

func start(t testing.TB, port, uid, gid int, ping func(context.Context) error, name string, args ...string) *server {
	t.Helper()
	s := &server{port: port, log: new(bytes.Buffer)}
	cmd := exec.Command(name, args...)
	asUser(cmd, uid, gid)
	cmd.Dir, cmd.Stdout, cmd.Stderr = os.TempDir(), s.log, s.log
	started := make(chan error)
	ended := make(chan struct{})
	go func() { // ends with the server; the kernel ends that when this thread does, so it is kept
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its log says why
			close(ended)
		}
	}()
	require.NoError(t, <-started)
	stops = append([]func(){func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
	}}, stops...)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := ping(ctx)
		cancel()
		if err == nil {
			return s
		}
		select {
		case <-ended:
			t.Fatalf("%s ended: %s", name, s.log)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s does not answer: %v", name, err)
		}
	}
}

func notShort(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
	"github.com/redaside/aside/internal/stamp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func stampOf(n int) string { return stampAt(time.UnixMicro(1763719200000000+int64(n)*1000000), n) }

func stampAt(at time.Time, n int) string {
	return stamp.Stamp{Micros: at.UnixMicro(), Client: "0000000000c0ffee", Number: int64(n)}.String()
}

// far is an end that these tests do not live to see; past one that they have.
const (
	far  = 4102444800000 // 2100
	past = 1763719200000
)

// written makes a fallback directory as a kill of its process leaves it: two records in files, the
// rest in the journal.
func written(t testing.TB) string {
	t.Helper()
	source := filepath.Join(t.TempDir(), "source")
	o := fallback.Options{FlushInterval: time.Hour, MaxQueue: 1 << 30, Sync: fallback.OS, Logger: slog.New(slog.DiscardHandler)}
	put := func(d *fallback.Dir, records ...fallback.Record) { require.NoError(t, d.Put(t.Context(), records...)) }

	d, err := fallback.Open(source, o)
	require.NoError(t, err)
	put(d, fallback.Record{Op: fallback.OpSet, Key: "in a file", Value: "v", Expires: far, Stamp: stampOf(1), Slack: 7})
	d.Fill(fallback.Record{Op: fallback.OpFill, Key: "loaded", Value: `{"id":1}`, Expires: far, Stamp: stampOf(2)})
	require.NoError(t, d.Close(t.Context()))

	d, err = fallback.Open(source, o)
	require.NoError(t, err)
	put(d, fallback.Record{Op: fallback.OpSet, Key: "user:42", Value: "Grüß Gott\n", Expires: far, Stamp: stampOf(3), Slack: 1250})
	put(d, fallback.Record{Op: fallback.OpDel, Key: "user:43", Stamp: stampOf(4), Slack: -1})
	put(d, fallback.Record{Op: fallback.OpSet, Key: "\x00\xff", Value: "\xfe", Expires: far, Stamp: stampOf(5)})
	put(d, fallback.Record{Op: fallback.OpSet, Key: "old", Value: "x", Expires: past, Stamp: stampOf(6)})
	dir := filepath.Join(t.TempDir(), "fallback")
	require.NoError(t, os.CopyFS(dir, os.DirFS(source)))
	require.NoError(t, d.Close(t.Context()))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600)) // as if it had been closed: process ids differ from run to run
	return dir
}

// golden compares with a file in testdata. What differs from run to run is masked: directories, and
// the numbers of bytes of the journal and of files.
func golden(t *testing.T, name, got, dir string) {
	t.Helper()
	got = strings.ReplaceAll(got, dir, "DIR")
	got = regexp.MustCompile(`"timestamp": "[^"]*"`).ReplaceAllString(got, `"timestamp": "…"`)
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o700))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

func TestInspectShowsWhatIsPending(t *testing.T) {
	dir := written(t)
	got := runAside(t, "inspect", dir)
	require.Equal(t, 0, got.code, got.stderr)
	golden(t, "inspect.txt", got.stdout, dir)

	got = runAside(t, "inspect", dir, "--json")
	require.Equal(t, 0, got.code, got.stderr)
	golden(t, "inspect.json", got.stdout, dir)

	got = runAside(t, "inspect", dir, "user:42")
	require.Equal(t, 0, got.code, got.stderr)
	golden(t, "inspect-key.txt", got.stdout, dir)

	got = runAside(t, "inspect", dir, "user:42", "--json")
	require.Equal(t, 0, got.code, got.stderr)
	var out inspected
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &out))
	require.Len(t, out.Records, 1)
	require.Equal(t, "Grüß Gott\n", *out.Records[0].Value)

	got = runAside(t, "inspect", dir, "--limit", "2")
	require.Contains(t, got.stdout, "… and 4 more (--limit 0 shows all)\n")

	got = runAside(t, "inspect", dir, "nobody")
	require.Equal(t, 1, got.code)
	require.Equal(t, "aside: nothing is known of \"nobody\"\n", got.stderr)
}

func TestVerifyFindsWhatIsWrongAndSaysWhatToDo(t *testing.T) {
	dir := written(t)
	got := runAside(t, "verify", dir)
	require.Equal(t, 0, got.code, got.stderr)
	golden(t, "verify-ok.txt", got.stdout, dir)

	parts, err := filepath.Glob(filepath.Join(dir, "journal", "*.aof"))
	require.NoError(t, err)
	content, err := os.ReadFile(parts[0])
	require.NoError(t, err)
	content = bytes.Replace(content[:len(content)-9], []byte("user:43"), []byte("user:44"), 1)
	require.NoError(t, os.WriteFile(parts[0], content, 0o600))
	writeFile(t, dir, "notes.txt", "buy milk")

	got = runAside(t, "verify", dir)
	require.Equal(t, 1, got.code)
	golden(t, "verify-bad.txt", got.stdout, dir)
	got = runAside(t, "verify", dir, "--json")
	require.Equal(t, 1, got.code)
	golden(t, "verify-bad.json", got.stdout, dir)

	got = runAside(t, "inspect", dir)
	require.Equal(t, 0, got.code)
	require.Contains(t, got.stderr, "3 problems in this directory: see aside verify")
	got = runAside(t, "export", dir)
	require.Equal(t, 1, got.code, "what is corrupt is missing in the export")
}

func TestARealRedisLoadsWhatIsExported(t *testing.T) {
	program := redistest.Binary()
	if program == "" {
		redistest.Skip(t, "needs a redis-server binary, to load what was exported")
	}
	dir, data := written(t), t.TempDir()
	got := runAside(t, "export", dir, "--fills", "-o", filepath.Join(data, "appendonly.aof"))
	require.Equal(t, 0, got.code, got.stderr)
	require.Equal(t, "exported 4 sets, 1 delete, 1 loaded value\n", got.stderr)
	again := runAside(t, "export", dir, "-o", filepath.Join(data, "appendonly.aof"))
	require.Equal(t, 1, again.code)
	require.Contains(t, again.stderr, "is there already")

	socket := filepath.Join(data, "s")
	server := exec.Command(program, "--port", "0", "--unixsocket", socket, "--dir", data, "--appendonly", "yes", "--save", "", "--logfile", filepath.Join(data, "log"))
	require.NoError(t, server.Start())
	t.Cleanup(func() {
		_ = server.Process.Kill() // it keeps nothing
		_ = server.Wait()
	})
	option, err := parseURL("unix://" + socket)
	require.NoError(t, err)
	d := &doctor{ctx: testContext(t), timeout: patience}
	client := connect(t, option)
	value, err := d.ask(client, "GET", "user:42")
	require.NoError(t, err)
	require.Equal(t, "Grüß Gott\n", value)
	value, err = d.ask(client, "GET", "\x00\xff")
	require.NoError(t, err)
	require.Equal(t, "\xfe", value)
	ttl, err := d.ask(client, "PEXPIRETIME", "in a file")
	if err == nil { // Redis 7
		require.Contains(t, ttl, fmt.Sprint(far))
	}
	keys, err := d.ask(client, "DBSIZE")
	require.NoError(t, err)
	require.Contains(t, keys, "4", "the expired and the deleted one are not there: %s", keys)

	plain := runAside(t, "export", dir)
	require.Equal(t, 0, plain.code)
	require.NotContains(t, plain.stdout, "loaded")
	require.Contains(t, plain.stdout, "*2\r\n$3\r\nDEL\r\n$3\r\nold\r\n")
}

func TestReplayBringsItIntoRedisAndLeavesNothing(t *testing.T) {
	server := redistest.Start(t)
	dir, url := written(t), "redis://"+server.Addr()
	server.Do("SET", "user:43", "to be deleted")

	got := runAside(t, "replay", dir, "--redis", url, "--dry-run")
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "would replay 5 to "+server.Addr()+": 4 sets, 1 delete\n0 of these have a newer write")
	require.Contains(t, got.stdout, "3 records were set more than 1h ago (--stamp-ttl) and would become deletes\n")
	require.Equal(t, "to be deleted", server.Do("GET", "user:43"))

	got = runAside(t, "replay", dir, "--redis", url, "--stamp-ttl", "1h")
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "replayed 6 of 6 records in ")
	require.Contains(t, got.stdout, "0 refused, 0 without an answer\n")
	require.Nil(t, server.Do("GET", "user:43"))

	got = runAside(t, "inspect", dir)
	require.Contains(t, got.stdout, "pending     0")
	got = runAside(t, "replay", dir, "--redis", url)
	require.Equal(t, 0, got.code)
	require.Equal(t, "nothing waits for database 0\n", got.stdout)
}

// A set that has waited for longer than others remember their writes becomes a delete. Nobody must
// find out afterwards.
func TestReplayDoesNotTurnSetsIntoDeletesUnasked(t *testing.T) {
	server := redistest.Start(t)
	dir, url := filepath.Join(t.TempDir(), "fallback"), "redis://"+server.Addr()
	d, err := fallback.Open(dir, fallback.Options{Sync: fallback.OS, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	at := stampAt(time.Now().Add(-5*time.Hour), 1)
	require.NoError(t, d.Put(t.Context(), fallback.Record{Op: fallback.OpSet, Key: "k", Value: "v", Expires: far, Stamp: at}))
	require.NoError(t, d.Close(t.Context()))

	got := runAside(t, "replay", dir, "--redis", url)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "1 record was set more than 1h ago")
	require.Contains(t, got.stderr, "--stamp-ttl 24h")
	require.Contains(t, runAside(t, "inspect", dir).stdout, "pending     1")

	got = runAside(t, "replay", dir, "--redis", url, "--stamp-ttl", "24h")
	require.Equal(t, 0, got.code, got.stderr)
	require.Equal(t, "v", server.Do("GET", "k"))
}

func TestADryRunSeesWhatRedisHasHeardSinceAndAReplayLeavesItAlone(t *testing.T) {
	server := redistest.Start(t)
	url, home := "redis://"+server.Addr(), t.TempDir()
	dir := filepath.Join(home, "fallback")
	server.Kill()
	s := serve(t, home, nil, "--redis", url, "--fallback-dir", dir)
	ctx := testContext(t)
	require.NoError(t, s.client().Set(ctx, "mine", "mine", time.Hour).Err())
	require.NoError(t, s.client().Set(ctx, "contested", "mine", time.Hour).Err())
	s.kill()
	server.Restart()
	other := serve(t, home, nil, "--redis", url, "--fallback-dir", filepath.Join(home, "other"))
	require.NoError(t, other.client().Set(ctx, "contested", "newer", time.Hour).Err())

	got := runAside(t, "replay", dir, "--redis", url, "--dry-run")
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "would replay 2 to "+server.Addr()+": 2 sets, 0 deletes\n1 of these have a newer write in Redis and would change nothing; of 1 Redis remembers no write\n")
	got = runAside(t, "replay", dir, "--redis", url)
	require.Equal(t, 0, got.code, got.stderr)
	require.Equal(t, "mine", server.Do("GET", "mine"))
	require.Equal(t, "newer", server.Do("GET", "contested"))
}

func TestReplayAndDoctorFindTheirWayInACluster(t *testing.T) {
	cluster := redistest.StartCluster(t)
	url := "redis://" + cluster.Addrs()[0]
	got := runAside(t, "replay", written(t), "--redis", url, "--stamp-ttl", "1h")
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "replayed 6 of 6 records in ")

	got = runAside(t, "doctor", "--redis", url)
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	for _, addr := range cluster.Addrs()[:3] {
		require.Contains(t, got.stdout, "ok       version "+addr)
		require.Contains(t, got.stdout, "ok       clock "+addr)
	}
	require.Contains(t, got.stdout, "ok       tracking")
}

func TestReplayAndDoctorFindThePrimaryBySentinel(t *testing.T) {
	sentinel := redistest.StartSentinel(t)
	url := "redis://" + sentinel.Addrs()[0] + "?master_set=" + sentinel.MasterSet()
	got := runAside(t, "replay", written(t), "--redis", url, "--stamp-ttl", "1h")
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	got = runAside(t, "doctor", "--redis", url)
	require.Equal(t, 0, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "ok       scripts")
	require.Contains(t, got.stdout, "ok       tracking")
	replica := runAside(t, "doctor", "--redis", "redis://"+sentinel.Replicas()[0].Addr())
	require.Equal(t, 1, replica.code)
	require.Contains(t, replica.stdout, "no primary among")
}

func TestReplaySaysWhatIsLeft(t *testing.T) {
	server := redistest.Start(t)
	url := "redis://" + server.Addr()

	got := runAside(t, "replay", written(t), "--redis", "redis://127.0.0.1:1", "--wait", "300ms", "--stamp-ttl", "1h")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "127.0.0.1:1 does not answer within --wait (300ms), nothing was replayed")

	home := t.TempDir()
	s := serve(t, home, nil, "--redis", "redis://127.0.0.1:1", "--fallback-dir", "fb")
	require.NoError(t, s.client().Set(testContext(t), "k", "v", 0).Err())
	got = runIn(t, home, nil, "replay", "fb", "--redis", url)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "the fallback directory is in use")
	require.Contains(t, got.stderr, "it replays by itself when Redis is back")
	s.kill()

	server.Do("ACL", "SETUSER", "narrow", "on", ">pw", "~*", "+@all", "-set", "-del", "-unlink")
	got = runIn(t, home, nil, "replay", "fb", "--redis", "redis://narrow:pw@"+server.Addr())
	require.Equal(t, 1, got.code, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "1 refused")
	require.Contains(t, got.stdout, "last refusal: ")
	require.Contains(t, got.stdout, "1 record left in fb\n")

	got = runIn(t, home, nil, "replay", "fb", "--redis", url+"/3")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "1 record of database 0: run this with that database in --redis, too (…/0)")

	got = runIn(t, home, nil, "replay", "mistyped", "--redis", url)
	require.Equal(t, 1, got.code)
	require.NoDirExists(t, filepath.Join(home, "mistyped"))
}

func TestTheExitCodeSaysWhoseMistakeItIs(t *testing.T) {
	dir := t.TempDir()
	for _, row := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"", 0, ""},
		{"--help", 0, ""},
		{"version", 0, ""},
		{"--version", 0, ""},
		{"serve --version", 0, ""},
		{"serve --help", 0, ""},
		{"frobnicate", 2, "unexpected argument frobnicate: see aside --help"},
		{"inspect", 2, `expected "<dir>": see aside inspect --help`},
		{"inspect " + dir, 1, "no fallback directory of aside"},
		{"inspect " + dir + "/absent", 1, "no such file or directory"},
		{"verify " + dir, 1, "no fallback directory of aside"},
		{"export " + dir, 1, "no fallback directory of aside"},
		{"replay " + dir, 2, "--redis"},
		{"replay " + dir + " --redis http://x", 2, "--redis: invalid URL scheme: http: must be like"},
		{"replay " + dir + " --redis redis://x --rate -1", 2, "--rate"},
		{"replay " + dir + " --redis redis://x --stamp-ttl 0s", 2, "--stamp-ttl"},
		{"replay " + dir + " --redis redis://127.0.0.1:1", 1, "no fallback directory of aside"},
		{"serve --port many", 2, `--port: service.port is "many": must be a port`},
		{"serve --config absent.yaml", 2, "absent.yaml: the configuration file cannot be read"},
		{"serve --bind 0.0.0.0", 2, "say --insecure"},
		{"serve --redis redis://:hun%ter2@h", 2, "--redis: redis.url (not shown, as it may hold a password): it is no url"},
		{"serve --log-path /proc/aside.log", 2, `log.path is "/proc/aside.log": it cannot be written`},
		{"doctor --redis http://x", 2, "--redis: invalid URL scheme"},
		{"doctor --redis redis://127.0.0.1:1", 1, ""},
		{"completion tcsh", 2, "must be one of"},
		{"healthcheck --url http://127.0.0.1:1/healthz", 1, "the proxy does not answer"},
		{"explain k --url http://127.0.0.1:1", 1, "the proxy does not answer"},
		{"explain k --url nowhere", 2, "must be like http://127.0.0.1:9997"},
		{"explain k --url http://127.0.0.1:1 --dir x", 2, "--dir and --url are given"},
		{"explain k --dir absent", 1, "the fallback directory cannot be read"},
		{"explain", 2, "see aside explain --help"},
		{"drill --url http://127.0.0.1:1", 1, "the proxy does not answer"},
		{"drill --url nowhere", 2, "must be like http://127.0.0.1:9997"},
		{"drill --fraction 2", 2, "--fraction is 2: must be above 0 and at most 1"},
		{"drill --for 0s", 2, "--for is 0s: must be positive"},
	} {
		t.Run(row.args, func(t *testing.T) {
			got := runAside(t, strings.Fields(row.args)...)
			require.Equal(t, row.code, got.code, got.stdout+got.stderr)
			require.Contains(t, got.stderr, row.stderr)
			require.NotContains(t, got.stdout+got.stderr, "hun%ter2")
			if row.code == 0 {
				require.Empty(t, got.stderr)
				require.NotEmpty(t, got.stdout)
			}
		})
	}
}

func TestAllThatIsWrongWithAConfigurationIsSaidAtOnce(t *testing.T) {
	home := t.TempDir()
	writeFile(t, home, "conf.yaml", "cache:\n  capacity: lots\nservice:\n  porte: 1\n")
	got := runIn(t, home, []string{"ASIDE_LOG_LEVEL=loud"}, "serve", "--fallback-sync", "maybe")
	require.Equal(t, 2, got.code)
	require.Equal(t, `aside: the configuration has 4 problems:
  conf.yaml:2: cache.capacity is "lots": must be a whole number of keys from 0 to 2147483647; the default is 100000
  conf.yaml:4: there is no setting "service.porte": did you mean service.port?
  ASIDE_LOG_LEVEL: log.level is "loud": must be one of debug, info, warn, error; the default is info
  --fallback-sync: fallback.sync is "maybe": must be one of always, everysec, os; the default is always
`, got.stderr)
	require.Empty(t, got.stdout)
}

// completions are lines, and the words that zsh and fish offer to end them.
var completions = []struct {
	line string
	want []string
}{
	{"aside ", []string{"completion", "doctor", "drill", "explain", "export", "healthcheck", "inspect", "replay", "serve", "verify", "version"}},
	{"aside ver", []string{"verify", "version"}},
	{"aside serve --cache-", []string{"--cache-capacity", "--cache-degraded-ttl", "--cache-expiry", "--cache-grace", "--cache-keep-written", "--cache-max-bytes"}},
	{"aside serve --ins", []string{"--insecure"}},
	{"aside serve --no-ins", []string{"--no-insecure"}},
	{"aside serve --config co", []string{"conf.yaml"}},
	{"aside completion ", []string{"bash", "fish", "zsh"}},
	{"aside serve --log-level ", []string{"debug", "error", "info", "warn"}},
	{"aside serve --log-format j", []string{"json"}},
	{"aside serve --port off --fallback-sync e", []string{"everysec"}},
	{"aside replay x --d", []string{"--dry-run"}},
	{"aside inspect fold", []string{"folder/"}},
	{"aside explain k --dir fold", []string{"folder/"}},
	{"aside explain k --va", []string{"--value"}},
}

// A zsh on a terminal of its own, as completion needs one: it is typed a line and a tab, and prints
// what its terminal shows until it is at the next prompt.
const zshTypes = `
zmodload zsh/zpty
zpty z zsh -f -i
zpty -w z "setopt no_prompt_sp no_prompt_cr; COLUMNS=200 LISTMAX=9999; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; PS1=\$'\x40\x40'"
zpty -r z out '*@@*'
zpty -n -w z "$2"$'\t\C-e\C-u'"print E''ND"$'\n'
zpty -r z out '*END*@@*'
print -r -- "$out"
zpty -d z`

func TestTheReferenceInTheDocumentationIsThatOfTheTable(t *testing.T) {
	const path, begin, end = "../../docs/PROXY.md", "<!-- settings: made by go test -C cmd/aside . -update -->\n", "<!-- end of settings -->"
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(content), begin)
	require.True(t, ok)
	table, after, ok := strings.Cut(rest, end)
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+"\n"+config.Reference()+"\n"+end+after), 0o644))
		return
	}
	require.Equal(t, config.Reference(), strings.Trim(table, "\n")+"\n")
}

// The type of a problem is the address of its line in docs/PROXY.md.
func TestEachProblemOfHTTPHasItsLineInTheDocumentation(t *testing.T) {
	doc, err := os.ReadFile("../../docs/PROXY.md")
	require.NoError(t, err)
	source, err := os.ReadFile("internal/proxy/web/problem.go")
	require.NoError(t, err)
	kinds := regexp.MustCompile(`problemKind\{"([a-z-]+)"`).FindAllSubmatch(source, -1)
	require.Greater(t, len(kinds), 10)
	for _, kind := range kinds {
		require.Contains(t, string(doc), `<a id="problem-`+string(kind[1])+`"></a>`)
	}
}

func TestTheVersionIsPrintedByFlagAndCommand(t *testing.T) {
	want := runAside(t, "version")
	require.Equal(t, 0, want.code, want.stderr)
	require.Regexp(t, `^aside \S+ \(go\S+, \w+/\w+\)\n$`, want.stdout)
	for _, args := range [][]string{{"--version"}, {"serve", "--version"}, {"inspect", "--version"}} {
		require.Equal(t, want, runAside(t, args...), args)
	}
}

package config_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// write makes a configuration file and returns its name, which is relative so that messages are the
// same everywhere.
func write(t *testing.T, content string) string {
	t.Helper()
	t.Chdir(t.TempDir())
	require.NoError(t, os.WriteFile("my.yaml", []byte(content), 0o600))
	return "my.yaml"
}

func TestFlagsOverrideTheEnvironmentWhichOverridesTheFile(t *testing.T) {
	file := write(t, "cache:\n  capacity: 1\n  expiry: 1m\nservice: {port: 1001, resp_port: off}\nredis:\n  addrs:\n    - a:1\n    - b:2\nlog: {stdout: false}\n")
	c, warnings, err := config.Load(config.Sources{
		File:    file,
		Environ: []string{"ASIDE_CACHE_CAPACITY=2", "ASIDE_CACHE_EXPIRY=2m", "ASIDE_LOG_LEVEL=", "PATH=/bin"},
		Flags:   map[string]string{"cache.capacity": "3"},
	})
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.Equal(t, 3, c.Cache.Capacity)
	require.Equal(t, 2*time.Minute, c.Cache.Expiry)
	require.Equal(t, config.Port(1001), c.Service.Port)
	require.Equal(t, config.Off, c.Service.RESPPort)
	require.Equal(t, []string{"a:1", "b:2"}, c.Redis.Addrs)
	require.False(t, c.Log.Stdout)
	require.Equal(t, "info", c.Log.Level, "an empty variable sets nothing")
	require.Equal(t, int64(1<<30), c.Fallback.MaxBytes, "what is not set has its default")
}

func TestAFileThatIsNotNamedNeedNotBeThere(t *testing.T) {
	t.Chdir(t.TempDir())
	c, _, err := config.Load(config.Sources{})
	require.NoError(t, err)
	require.Equal(t, config.Default(), c)

	require.NoError(t, os.WriteFile(config.DefaultFile, []byte("cache: {capacity: 7}"), 0o600))
	c, _, err = config.Load(config.Sources{})
	require.NoError(t, err)
	require.Equal(t, 7, c.Cache.Capacity)

	_, _, err = config.Load(config.Sources{File: "absent.yaml"})
	require.EqualError(t, err, "absent.yaml: the configuration file cannot be read: no such file or directory: name another one with --config")
}

func TestAllProblemsAreReportedAtOnceWithTheirLines(t *testing.T) {
	file := write(t, `# line 1
redis:
  url: "http://user:hunter2@host"
  addrs: [one, "h:1"]
cache:
  capacity: many
  capasity: 1
  expiry: 10
  expiry: 20s
service:
  bind: 10.0.0.1
  port: 70000
  resp_port: 9997
  concurrency: -1
  token: [a, b]
  resp_password_file: /nonexistent/secret
  tls: {cert: only.pem}
  pprof: yes please
fallback: always
log:
  format: xml
  max_size: 1500KiB
  levels: {a: b}
extra: 1
`)
	_, _, err := config.Load(config.Sources{
		File:    file,
		Environ: []string{"ASIDE_FALLBACK_SYNC=sometimes"},
		Flags:   map[string]string{"fallback.max_bytes": "1"},
		ParseURL: func(url string) error {
			if !strings.HasPrefix(url, "redis") {
				return errors.New("there is no scheme http")
			}
			return nil
		},
	})
	var problems config.Problems
	require.ErrorAs(t, err, &problems)
	require.Equal(t, strings.TrimSpace(`
my.yaml:3: redis.url (not shown, as it may hold a password): there is no scheme http: must be like redis://127.0.0.1:6379/0, rediss://user:password@host:6380 or unix:///run/redis.sock
my.yaml:4: redis.addrs has "one": each address must be host:port; an IPv6 address stands in brackets, as in [::1]:6379
my.yaml:6: cache.capacity is "many": must be a whole number of keys from 0 to 2147483647; the default is 100000
my.yaml:7: there is no setting "cache.capasity": did you mean cache.capacity?
my.yaml:8: cache.expiry is "10": must be a duration with its unit, such as 250ms, 30s or 5m, from 1ms to 8784h, or 0 for no bound of its own; the default is 0
my.yaml:9: cache.expiry is set a second time: it stands in line 8, too: keep one of them
my.yaml:12: service.port is "70000": must be a port from 1 to 65535, 0 for any that is free, or off; the default is 9997
my.yaml:14: service.concurrency is "-1": must be a whole number of requests from 0 to 2147483647; the default is 0
my.yaml:15: service.token has a section or a list below it: write one value (text) behind the colon
my.yaml:16: service.resp_password_file is "/nonexistent/secret": it cannot be read (no such file or directory): name a file that this user may read
my.yaml:17: service.tls.cert is set and service.tls.key is not: name the certificate's key, too
my.yaml:18: service.pprof is "yes please": must be true or false; the default is false
my.yaml:19: fallback is no section: write settings below it, as in dir: …
my.yaml:21: log.format is "xml": must be one of text, json; the default is text
my.yaml:22: log.max_size is "1500KiB": must be whole MiB, such as 100MiB
my.yaml:23: there is no setting "log.levels": did you mean log.level?
my.yaml:24: there is no setting "extra": remove it; there are the sections redis, cache, service, fallback and log
ASIDE_FALLBACK_SYNC: fallback.sync is "sometimes": must be one of always, everysec, os; the default is always
--fallback-max-bytes: fallback.max_bytes is "1": must be a size in bytes, KiB, MiB or GiB, such as 64MiB, from 1MiB to 1048576GiB; the default is 1GiB
`), problems.Error())
	require.NotContains(t, err.Error(), "hunter2")
}

func TestWhatIsNotYAMLIsReportedWithItsLine(t *testing.T) {
	for _, row := range []struct{ name, content, want string }{
		{"tabs", "cache:\n\tcapacity: 1\n", "my.yaml:2: it is not YAML: "},
		{"a list", "- a\n", "my.yaml:1: the file is no section: "},
		{"two documents", "cache: {capacity: 1}\n---\nlog: {}\n", "my.yaml:2: a second document begins here: "},
		{"an alias to itself", "log: &l\n  tls: *l\n", `my.yaml:2: there is no setting "log.tls": `},
	} {
		t.Run(row.name, func(t *testing.T) {
			_, _, err := config.Load(config.Sources{File: write(t, row.content)})
			require.ErrorContains(t, err, row.want)
		})
	}
	for name, content := range map[string]string{"empty": "", "comments": "# nothing\n", "empty sections": "log:\ncache:\n  capacity:\n"} {
		t.Run(name, func(t *testing.T) {
			c, _, err := config.Load(config.Sources{File: write(t, content)})
			require.NoError(t, err)
			require.Equal(t, config.Default(), c)
		})
	}
}

func TestSecretsComeFromFiles(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(secret, []byte("from file\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600))
	load := func(content string, environ ...string) (config.Config, error) {
		c, _, err := config.Load(config.Sources{File: write(t, content), Environ: environ})
		return c, err
	}
	c, err := load("service: {token_file: " + secret + ", bind: 0.0.0.0, resp_port: off}")
	require.NoError(t, err, "a token is enough where only HTTP is served")
	require.Equal(t, "from file", c.Service.Token)

	c, err = load("service: {token_file: "+secret+"}", "ASIDE_SERVICE_TOKEN=from environment")
	require.NoError(t, err)
	require.Equal(t, "from environment", c.Service.Token)

	c, err = load("service: {token: from yaml}", "ASIDE_SERVICE_TOKEN_FILE="+secret)
	require.NoError(t, err)
	require.Equal(t, "from file", c.Service.Token)

	_, err = load("service:\n  token: t\n  token_file: " + secret)
	require.EqualError(t, err, "my.yaml:3: service.token_file and service.token are both set: keep one of them")

	_, err = load("service: {token_file: " + filepath.Join(dir, "empty") + "}")
	require.ErrorContains(t, err, "the file is empty: write the secret into it")
}

func TestOnlyLoopbackIsServedWithoutASecret(t *testing.T) {
	for _, row := range []struct {
		bind string
		ok   bool
	}{{"127.0.0.1", true}, {"127.8.8.8", true}, {"::1", true}, {"localhost", true}, {"0.0.0.0", false}, {"::", false}, {"192.168.1.1", false}} {
		_, _, err := config.Load(config.Sources{File: write(t, "service: {bind: '"+row.bind+"'}")})
		require.Equal(t, row.ok, err == nil, "%s: %v", row.bind, err)
		_, _, err = config.Load(config.Sources{File: write(t, "service: {insecure: true, bind: '"+row.bind+"'}")})
		require.NoError(t, err, row.bind)
	}
	_, _, err := config.Load(config.Sources{File: write(t, "service:\n  bind: 10.0.0.1\n  resp_port: 9997")})
	require.EqualError(t, err, strings.TrimSpace(`
my.yaml:2: service.bind is "10.0.0.1", which others can reach, without service.token_file and service.resp_password_file: set what is missing, or bind to 127.0.0.1, or say --insecure if something else keeps strangers out
my.yaml:3: service.port and service.resp_port are both 9997: give each a port of its own, or switch one off`))
	_, _, err = config.Load(config.Sources{File: write(t, "service: {bind: example.com}")})
	require.ErrorContains(t, err, `my.yaml:1: service.bind is "example.com": must be the IP address`)
}

func TestAVariableThatIsNearlyASettingIsAWarning(t *testing.T) {
	t.Chdir(t.TempDir())
	_, warnings, err := config.Load(config.Sources{Environ: []string{"ASIDE_CACHE_CAPACTIY=5", "ASIDE_BACKEND=binary", "ASIDE_CONFIG=x", "ASIDE_SERVICE_HOST=10.0.0.1"}})
	require.NoError(t, err)
	require.Equal(t, []string{"the environment variable ASIDE_CACHE_CAPACTIY is no setting and has no effect: did you mean ASIDE_CACHE_CAPACITY?"}, warnings)
}

func TestTLSTowardsRedisIsLookedAtBeforeItIsUsed(t *testing.T) {
	notPEM := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(notPEM, []byte("x"), 0o600))
	for _, row := range []struct {
		flags map[string]string
		want  string
	}{
		{map[string]string{"redis.url": "rediss://h", "redis.tls.ca": notPEM}, "--redis-tls-ca: redis.tls.ca is %q: it cannot be used (there is no certificate in it): name a file of certificates, PEM"},
		{map[string]string{"redis.url": "rediss://h", "redis.tls.cert": notPEM}, "--redis-tls-cert: redis.tls.cert is set and redis.tls.key is not: name the certificate's key, too"},
		{map[string]string{"redis.url": "rediss://h", "redis.tls.key": notPEM}, "--redis-tls-key: redis.tls.key is set and redis.tls.cert is not: name the key's certificate, too"},
		{map[string]string{"redis.url": "rediss://h", "redis.tls.cert": notPEM, "redis.tls.key": notPEM}, "--redis-tls-cert: redis.tls.cert is %[1]q, redis.tls.key %[1]q: they cannot be used (tls: failed to find any PEM data in certificate input): name a certificate chain and its key, both PEM"},
	} {
		_, _, err := config.Load(config.Sources{Flags: row.flags})
		want := row.want
		if strings.Contains(want, "%") {
			want = fmt.Sprintf(want, notPEM)
		}
		require.EqualError(t, err, want)
	}
	_, _, err := config.Load(config.Sources{Flags: map[string]string{"redis.tls.ca": notPEM}})
	require.ErrorContains(t, err, "redis.tls is set, and redis.url is not for TLS: let the url begin with rediss://, or leave redis.tls out")
}

// A relapse would put a password into a process list, or a default into the reference that is not
// the one that holds.
func TestTheTableOfSettingsIsSound(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range config.Settings() {
		for _, name := range []string{s.Name, s.Env(), s.Flag()} {
			require.False(t, name != "" && seen[name], "%s is taken twice", name)
			seen[name] = true
		}
		require.NotEmpty(t, s.Help, s.Name)
		require.Equal(t, s.Secret, s.Flag() == "", s.Name)
		if s.Default == "" {
			continue
		}
		c, _, err := config.Load(config.Sources{Flags: map[string]string{s.Name: s.Default}})
		require.NoError(t, err, s.Name)
		require.Empty(t, config.Changed(config.Default(), c), s.Name)
	}
}

func TestWhatHasChangedIsNamed(t *testing.T) {
	a, b := config.Default(), config.Default()
	require.Empty(t, config.Changed(a, b))
	b.Service.Token, b.Cache.Capacity = "x", 3
	require.Equal(t, []string{"cache.capacity", "service.token"}, config.Changed(a, b))
}

func TestEachRedisHasAFolderOfItsOwn(t *testing.T) {
	env := func(pairs map[string]string) func(string) string {
		return func(name string) string { return pairs[name] }
	}
	home := env(map[string]string{"HOME": "/home/ann"})
	a, b := config.StateDir(home, "127.0.0.1:6379/0"), config.StateDir(home, "127.0.0.1_6379/0")
	require.Equal(t, "/home/ann/.local/state/aside/127.0.0.1_6379_0-", a[:len(a)-8])
	require.NotEqual(t, a, b)
	long := config.StateDir(home, strings.Repeat("host:1,", 100))
	require.Less(t, len(filepath.Base(long)), 60)
	require.Equal(t, "/var/lib/x", filepath.Dir(config.StateDir(env(map[string]string{"STATE_DIRECTORY": "/var/lib/x:/var/lib/y", "HOME": "/h"}), "r")))
	require.Equal(t, "/s/aside", filepath.Dir(config.StateDir(env(map[string]string{"XDG_STATE_HOME": "/s", "HOME": "/h"}), "r")))
	require.Empty(t, config.StateDir(env(nil), "r"), "nobody's home")
}

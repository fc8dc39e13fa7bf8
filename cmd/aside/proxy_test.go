package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/proxy"
	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/cmd/aside/internal/proxy/web"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

// Each setting must reach what it is for.
func TestTheConfigurationReachesTheClient(t *testing.T) {
	dir := t.TempDir()
	c := config.Default()
	c.Service.Port, c.Service.RESPPort = 0, config.Off
	c.Redis = config.Redis{URL: "redis://u:p@ignored:1/3?master_set=m", Addrs: []string{"b:2", "a:1"}, Username: "user", Password: "secret", Timeout: 3 * time.Second}
	c.Cache = config.Cache{Capacity: 7, Expiry: time.Minute, MaxBytes: 1 << 20, DegradedTTL: 0}
	c.Service.MaxKeyBytes, c.Service.MaxValueBytes = 100, 1000
	c.Fallback = config.Fallback{Dir: dir, Sync: "everysec", MaxBytes: 2 << 20, ReplayRate: 0, StampTTL: 5 * time.Hour}
	p, err := newProxy(c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer p.closeListeners()
	o := p.options
	require.Equal(t, []string{"b:2", "a:1"}, o.Redis.InitAddress)
	require.Equal(t, "user", o.Redis.Username)
	require.Equal(t, "secret", o.Redis.Password)
	require.Equal(t, 3, o.Redis.SelectDB)
	require.Equal(t, "m", o.Redis.Sentinel.MasterSet)
	require.Equal(t, "a:1,b:2/m/3", p.redis)
	require.Equal(t, 3*time.Second, o.RedisTimeout)
	require.Equal(t, 6*time.Second, o.LockTTL)
	require.Equal(t, 7, o.MemoryKeys)
	require.Equal(t, time.Minute, o.MemoryTTL)
	require.Equal(t, int64(1<<20), o.MemoryBytes)
	require.Equal(t, time.Duration(-1), o.DegradedTTL, "0 is: until it expires")
	require.Equal(t, 100, o.MaxKeyBytes)
	require.Equal(t, 1000+envelopeRoom, o.MaxValueBytes)
	require.Equal(t, dir, o.FallbackDir)
	require.Equal(t, fallback.Options{Sync: fallback.EverySecond, MaxBytes: 2 << 20}, o.Fallback)
	require.Equal(t, -1, o.ReplayRate, "0 is: no limit")
	require.Equal(t, 5*time.Hour, o.StampTTL)
	require.NotNil(t, p.httpLn)
	require.Nil(t, p.respLn)
	p.closeListeners()

	c.Cache.Capacity, c.Fallback.Dir = 0, config.NoDir
	p, err = newProxy(c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer p.closeListeners()
	require.Equal(t, int64(-1), p.options.MemoryBytes, "0 keys are none")
	require.Empty(t, p.options.FallbackDir)
}

func TestWithoutAHomeADirectoryMustBeNamed(t *testing.T) {
	for _, name := range []string{"HOME", "XDG_STATE_HOME", "STATE_DIRECTORY", "LOCALAPPDATA"} {
		t.Setenv(name, "")
	}
	_, err := fallbackDir(config.Default(), "r", slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "name a directory that outlives the process with --fallback-dir")
	require.Equal(t, exitUsage, exitCode(err, io.Discard))
	t.Setenv("STATE_DIRECTORY", "/var/lib/aside")
	dir, err := fallbackDir(config.Default(), "r", slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Equal(t, "/var/lib/aside", filepath.Dir(dir))
}

func TestWhatIsToBeTriedCanBeReached(t *testing.T) {
	for _, row := range []struct{ at, want string }{
		{"0.0.0.0:9997", "127.0.0.1:9997"}, {"[::]:9997", "127.0.0.1:9997"}, {"10.1.2.3:1", "10.1.2.3:1"}, {"[::1]:1", "[::1]:1"},
	} {
		addr, err := net.ResolveTCPAddr("tcp", row.at)
		require.NoError(t, err)
		require.Equal(t, row.want, reachable(addr), row.at)
	}
}

// What curl and redis-cli need is in the lines to try, and the secrets are not.
func TestTheLinesToTrySayHowToLogIn(t *testing.T) {
	c := config.Default()
	c.Service.Port, c.Service.RESPPort, c.Service.Token, c.Service.RESPPassword = 0, 0, "hunter2", "hunter3"
	c.Fallback.Dir = config.NoDir
	p, err := newProxy(c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer p.closeListeners()
	var out bytes.Buffer
	p.greet(&out)
	require.Contains(t, out.String(), `curl -H "Authorization: Bearer $TOKEN" -X PUT`)
	require.Contains(t, out.String(), ` -a "$PASSWORD" GET greeting`)
	require.NotContains(t, out.String(), "hunter")
	require.NotContains(t, out.String(), "are kept in")
}

func TestASlowDiskIsNoFailureAndABrokenOneIs(t *testing.T) {
	require.False(t, slowDisk(nil))
	require.True(t, slowDisk(fmt.Errorf("not closed yet: %w", context.DeadlineExceeded)))
	require.False(t, slowDisk(errors.Join(context.DeadlineExceeded, fallback.ErrDisk)))
}

// rueidis shows what AuthCredentialsFn says to Sentinels, too: they have accounts of their own, and
// must not learn that of Redis.
func TestARedisBehindSentinelsMayHaveAnAccount(t *testing.T) {
	sentinel := redistest.StartSentinel(t)
	sentinel.Primary().Do("ACL", "SETUSER", "proxy", "on", ">pw", "~*", "&*", "+@all")
	c := config.Default()
	c.Service.Port, c.Service.RESPPort = 0, config.Off
	c.Redis.URL = "redis://" + sentinel.Addrs()[0] + "?master_set=" + sentinel.MasterSet()
	c.Redis.Username, c.Redis.Password = "proxy", "pw"
	c.Fallback.Dir = config.NoDir
	p, err := newProxy(c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	_, err = p.start()
	require.NoError(t, err)
	defer func() { require.NoError(t, p.stop(t.Context())) }()
	eventually(t, "Redis lets us in", func() bool { return p.client.Health().Mode == aside.Healthy })
	require.NotContains(t, p.renew(c), "redis.password", "that needs a restart")
}

// What SIGHUP finds for another Redis, or no password at all, is not what this one is shown.
func TestSecretsOfAnotherRedisAreNotTakenOver(t *testing.T) {
	c := config.Default()
	c.Service.Port, c.Service.RESPPort = 0, config.Off
	c.Redis.URL, c.Redis.Password, c.Fallback.Dir = "redis://127.0.0.1:1", "first", config.NoDir
	p, err := newProxy(c, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer p.closeListeners()
	p.web = web.New(proxy.NewStore(newAway(t), 0), web.Options{})
	defer p.web.Close()
	for _, change := range []func(*config.Redis){
		func(r *config.Redis) { r.Addrs = []string{"10.0.0.1:6379"} },
		func(r *config.Redis) { r.URL = "redis://127.0.0.2:1" },
		func(r *config.Redis) { r.Password = "" },
	} {
		other := c
		other.Redis.Password = "second"
		change(&other.Redis)
		require.Empty(t, p.renew(other))
		require.Equal(t, "first", p.account.Load().Password)
	}
	c.Redis.Password = "second"
	require.Equal(t, []string{"redis.username", "redis.password"}, p.renew(c))
	require.Equal(t, "second", p.account.Load().Password)
}

// newAway is a client of a Redis that is not there.
func newAway(t *testing.T) *aside.Client {
	t.Helper()
	client, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{"127.0.0.1:1"}}, ConnectTimeout: time.Millisecond, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, client.Close()) })
	return client
}

// With Sentinel the addresses of the url are Sentinels': rediss:// is about them.
func TestSentinelsAreAskedByTLSWhereTheURLSaysSo(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = ln.Close() }()
	first := make(chan byte, 1)
	go func() { // ends with ln, or with what is read
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = nc.Close() }()
		b := make([]byte, 1)
		if _, err := io.ReadFull(nc, b); err == nil {
			first <- b[0]
		}
	}()
	got := runAside(t, "doctor", "--timeout", "1s", "--redis", "rediss://"+ln.Addr().String()+"?master_set=m")
	require.Equal(t, 1, got.code, got.stdout)
	require.Equal(t, byte(22), <-first, "a TLS handshake")
}

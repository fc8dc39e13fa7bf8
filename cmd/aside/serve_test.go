package main

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/redistest"
)

// The whole promise in one test: without Redis writes are accepted, a kill loses none, and when a
// Redis comes they are in it.
func TestNothingIsLostFromTheFirstStartWithoutRedisToTheDayItComes(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	url, home := "redis://"+server.Addr(), t.TempDir()

	first := serve(t, home, nil, "--redis", url)
	ctx := testContext(t)
	require.NoError(t, first.client().Set(ctx, "by resp", "one", 0).Err())
	require.NoError(t, first.client().Set(ctx, "deleted", "x", 0).Err())
	status, body := first.fetch(http.MethodPut, "/v1/keys/by%20http?ttl=1h", "two")
	require.Less(t, status, 300, body)
	require.NoError(t, first.client().Del(ctx, "deleted").Err())
	text, _ := first.text()
	require.Contains(t, text, "writes are kept in "+home)
	first.kill()

	second := serve(t, home, nil, "--redis", url)
	for key, want := range map[string]string{"by resp": "one", "by http": "two"} {
		got, err := second.client().Get(ctx, key).Result()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	status, body = second.fetch(http.MethodGet, "/get?key=by+resp", "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "one", body)
	require.ErrorIs(t, second.client().Get(ctx, "deleted").Err(), redis.Nil)

	server.Restart()
	eventually(t, "Redis has what was set", func() bool { return server.Do("GET", "by resp") == "one" && server.Do("EXISTS", "by http") == int64(1) })
	require.Equal(t, int64(0), server.Do("EXISTS", "deleted"))
	second.await(regexp.MustCompile(`Redis is well`))
	second.signal(syscall.SIGTERM)
	require.Equal(t, 0, second.end())
	require.Contains(t, runIn(t, home, nil, "inspect", fallbackOf(t, second)).stdout, "pending     0")
}

// fallbackOf is the directory that it says that it uses.
func fallbackOf(t *testing.T, s *served) string {
	t.Helper()
	m := regexp.MustCompile(`fallbackDir=(\S+)`).FindStringSubmatch(s.await(servingLine))
	require.NotNil(t, m)
	return m[1]
}

// What a client was told is kept must be there after the end, in Redis or on disk, however the end
// falls between its writes.
func TestTheEndUnderLoadLosesNoAcknowledgedWrite(t *testing.T) {
	for _, row := range []struct {
		name string
		end  func(s *served) (code int)
		code int
		away bool // Redis
	}{
		{"SIGTERM with Redis", func(s *served) int { s.signal(syscall.SIGTERM); return s.end() }, 0, false},
		{"SIGTERM without Redis", func(s *served) int { s.signal(syscall.SIGTERM); return s.end() }, 0, true},
		{"SIGKILL without Redis", func(s *served) int { s.kill(); return s.end() }, -1, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			server := redistest.Start(t)
			if row.away {
				server.Kill()
			}
			home := t.TempDir()
			dir := filepath.Join(home, "fallback")
			s := serve(t, home, nil, "--redis", "redis://"+server.Addr(), "--fallback-dir", dir)
			const writers, enough = 8, 200
			var mu sync.Mutex
			acknowledged := map[string]bool{}
			reached := make(chan struct{})
			var wait sync.WaitGroup
			for w := range writers {
				client := s.client()
				wait.Go(func() { // ends when the proxy does
					for i := 0; ; i++ {
						key := fmt.Sprintf("w%d:%d", w, i)
						if client.Set(context.Background(), key, "v", time.Hour).Err() != nil {
							return
						}
						mu.Lock()
						acknowledged[key] = true
						if len(acknowledged) == enough {
							close(reached)
						}
						mu.Unlock()
					}
				})
			}
			select {
			case <-reached:
			case <-time.After(patience):
				t.Error("the writers got nowhere")
			}
			require.Equal(t, row.code, row.end(s))
			wait.Wait()
			if row.away {
				server.Restart()
				got := runIn(t, home, nil, "replay", dir, "--redis", "redis://"+server.Addr())
				require.Equal(t, 0, got.code, got.stderr)
			}
			missing := 0
			for key := range acknowledged {
				if server.Do("EXISTS", key) != int64(1) {
					missing++
				}
			}
			require.Zero(t, missing, "of %d acknowledged writes", len(acknowledged))
		})
	}
}

func TestDrainingSaysSoBeforeItRefuses(t *testing.T) {
	s := serve(t, t.TempDir(), nil, "--redis", "redis://127.0.0.1:1", "--drain-delay", "1m")
	status, _ := s.fetch(http.MethodGet, "/readyz", "")
	require.Equal(t, http.StatusOK, status, "ready, though degraded")
	s.signal(syscall.SIGTERM)
	eventually(t, "/readyz says 503", func() bool {
		status, _ := s.fetch(http.MethodGet, "/readyz", "")
		return status == http.StatusServiceUnavailable
	})
	require.NoError(t, s.client().Set(testContext(t), "k", "v", 0).Err(), "it still serves")
	s.signal(syscall.SIGTERM) // the second one does not wait
	require.Equal(t, 0, s.end())
}

func TestTheFirstLinesSayWhatToTry(t *testing.T) {
	s := serve(t, t.TempDir(), nil, "--redis", "redis://user:hunter2@127.0.0.1:1")
	text, _ := s.text()
	_, port, err := net.SplitHostPort(s.resp)
	require.NoError(t, err)
	require.True(t, strings.HasPrefix(text, "aside "), text)
	require.Contains(t, text, "curl -X PUT --data hello http://"+s.http+"/v1/keys/greeting\n")
	require.Contains(t, text, "redis-cli -p "+port+" GET greeting\n")
	require.NotContains(t, text, "hunter2")
}

func TestJSONLogsAreNothingButJSON(t *testing.T) {
	home := t.TempDir()
	cmd := command(t, home, nil, "serve", "--port", "0", "--resp-port", "0", "--redis", "redis://127.0.0.1:1", "--log-format", "json")
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // it has ended, unless the test failed
	lines := bufio.NewScanner(out)
	messages := []string{}
	for lines.Scan() {
		var line struct{ Msg string }
		require.NoError(t, json.Unmarshal(lines.Bytes(), &line), lines.Text())
		if messages = append(messages, line.Msg); line.Msg == "aside: serving" {
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		}
	}
	require.NoError(t, cmd.Wait())
	require.Contains(t, messages, "aside: stopped")
}

func TestSIGHUPReopensTheLogAndReadsItsLevel(t *testing.T) {
	home := t.TempDir()
	path := filepath.Join(home, "log", "aside.log")
	conf := "redis: {url: 'redis://127.0.0.1:1'}\nlog: {path: " + path + ", level: %s}\ncache: {capacity: %d}\n"
	writeFile(t, home, "conf.yaml", fmt.Sprintf(conf, "info", 10))
	s := serve(t, home, nil)
	eventually(t, "the file has what was logged so far", func() bool { // it is written behind the output
		content, _ := os.ReadFile(path)
		return strings.Contains(string(content), "aside: serving")
	})
	require.NoError(t, os.Rename(path, path+".old"))
	writeFile(t, home, "conf.yaml", fmt.Sprintf(conf, "warn", 20))
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`some settings have changed that need a restart" settings=cache.capacity`))
	var content []byte
	eventually(t, "the new file has what was logged after the signal", func() bool {
		content, _ = os.ReadFile(path) // it may not be there yet
		return strings.Contains(string(content), "need a restart")
	})
	require.NotContains(t, string(content), "aside: serving")

	writeFile(t, home, "conf.yaml", "log: {level: loud}\n")
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`the configuration was not read again: conf.yaml:1: log.level is \\"loud\\"`))
	s.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.end())
	text, _ := s.text()
	require.NotContains(t, text, "aside: draining", "level warn holds since the first SIGHUP")
}

func TestTheStartWarnsOfWhatAllMayReadOrWrite(t *testing.T) {
	home, err := os.MkdirTemp("", "rights") //nolint:usetesting // others may not enter what is above t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(home)) })
	require.NoError(t, os.Chmod(home, 0o755))
	token, dir := writeFile(t, home, "token", "secret"), filepath.Join(home, "fallback")
	require.NoError(t, os.Chmod(token, 0o644))
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, os.Chmod(dir, 0o777))
	s := serve(t, home, nil, "--redis", "redis://127.0.0.1:1", "--token-file", token, "--fallback-dir", dir)
	s.await(regexp.MustCompile(`level=WARN msg="aside: service.token_file is .* which every user of this machine may read`))
	s.await(regexp.MustCompile(`level=WARN msg="aside: fallback.dir is .* which every user of this machine may write`))
}

// selfSigned writes a certificate for 127.0.0.1 and its key, and returns what trusts it.
func selfSigned(t *testing.T, dir, name string) *x509.CertPool {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	writeFile(t, dir, "cert.pem", string(cert))
	writeFile(t, dir, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(cert))
	return pool
}

func TestBothPortsAreBehindTLSAndASecretAndSIGHUPReadsTheCertificateAgain(t *testing.T) {
	home := t.TempDir()
	pool := selfSigned(t, home, "first")
	writeFile(t, home, "token", "t0ken\n")
	s := serve(t, home, []string{"ASIDE_SERVICE_RESP_PASSWORD=pa55"}, "--redis", "redis://127.0.0.1:1", "--bind", "0.0.0.0", "--token-file", "token",
		"--tls-cert", "cert.pem", "--tls-key", "key.pem")
	text, _ := s.text()
	require.NotContains(t, text, "t0ken")
	require.NotContains(t, text, "pa55")
	local := func(addr string) string {
		_, port, err := net.SplitHostPort(addr)
		require.NoError(t, err)
		return "127.0.0.1:" + port
	}
	get := func(pool *x509.CertPool, token string) (status int, subject string, err error) {
		request, err := http.NewRequestWithContext(testContext(t), http.MethodGet, "https://"+local(s.http)+"/get?key=k", nil)
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}}
		response, err := client.Do(request)
		if err != nil {
			return 0, "", err
		}
		require.NoError(t, response.Body.Close())
		return response.StatusCode, response.TLS.PeerCertificates[0].Subject.CommonName, nil
	}
	ctx := testContext(t)
	resp := func(password string) *redis.Client {
		client := redis.NewClient(&redis.Options{Addr: local(s.resp), Password: password, TLSConfig: &tls.Config{RootCAs: pool}, MaxRetries: -1, DisableIdentity: true})
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	require.NoError(t, resp("pa55").Set(ctx, "k", "v", 0).Err())
	require.Error(t, resp("wrong").Get(ctx, "k").Err())
	require.Error(t, resp("").Get(ctx, "k").Err())
	status, subject, err := get(pool, "t0ken")
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, "first", subject)
	status, _, err = get(pool, "wrong")
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status)

	got := runIn(t, home, nil, "healthcheck", "--url", "https://"+local(s.http)+"/healthz")
	require.Equal(t, 0, got.code, got.stderr)

	renewed := selfSigned(t, home, "second")
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`the configuration was read again`))
	_, subject, err = get(renewed, "t0ken")
	require.NoError(t, err)
	require.Equal(t, "second", subject)
}

// Redis's own default for TLS is that both sides show a certificate.
func TestRedisMayAskForACertificate(t *testing.T) {
	server := redistest.Start(t, redistest.WithTLS(), redistest.WithArgs("--tls-auth-clients", "yes"))
	home := t.TempDir()
	shown := server.TLSConfig().Certificates[0]
	pkcs8, err := x509.MarshalPKCS8PrivateKey(shown.PrivateKey)
	require.NoError(t, err)
	good := func() {
		writeFile(t, home, "cert.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: shown.Certificate[0]})))
		writeFile(t, home, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})))
	}
	good()
	url := "rediss://" + server.Addr()
	require.NoError(t, os.Link(filepath.Join(home, "cert.pem"), filepath.Join(home, "ca.pem")))
	files := []string{"--redis", url, "--redis-tls-ca", "ca.pem", "--redis-tls-cert", "cert.pem", "--redis-tls-key", "key.pem"}

	got := runIn(t, home, nil, append([]string{"doctor"}, files...)...)
	require.Equal(t, 0, got.code, got.stdout)
	got = runIn(t, home, nil, append([]string{"doctor"}, files[:4]...)...)
	require.Equal(t, 1, got.code, got.stdout)
	require.Regexp(t, `wants? to see a certificate.*--redis-tls-cert`, got.stdout) // it may say so, or just close the connection
	got = runIn(t, home, nil, "doctor", "--redis", url)
	require.Equal(t, 1, got.code, got.stdout)
	require.Contains(t, got.stdout, "or --redis-tls-ca has")
	for _, wrong := range [][]string{files[:6], append([]string{"--redis", "redis://" + server.Addr()}, files[2:]...), {"--redis", url, "--redis-tls-ca", "key.pem"}} {
		got = runIn(t, home, nil, append([]string{"doctor"}, wrong...)...)
		require.Equal(t, exitUsage, got.code, got.stderr)
		require.Contains(t, got.stderr, "--redis-tls-")
	}

	s := serve(t, home, nil, files...)
	ctx := testContext(t)
	require.NoError(t, s.client().Set(ctx, "k", "v", 0).Err())
	require.Equal(t, "v", server.Do("GET", "k"))

	require.NoError(t, os.Remove(filepath.Join(home, "cert.pem"))) // not into the file that is the authority's, too
	selfSigned(t, home, "stranger")
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`the configuration was read again`))
	server.Do("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
	s.await(regexp.MustCompile(`to=degraded`))
	require.NoError(t, s.client().Set(ctx, "k", "w", 0).Err())
	good()
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`from=recovering to=healthy`))
	require.Equal(t, "w", server.Do("GET", "k"))
}

// A team exchanges its secrets without a restart: Redis's, the token, the password of RESP.
func TestSIGHUPExchangesSecrets(t *testing.T) {
	server := redistest.Start(t)
	server.Do("ACL", "SETUSER", "proxy", "on", ">old", "~*", "&*", "+@all")
	home := t.TempDir()
	secrets := func(redis, token, password string) {
		writeFile(t, home, "redis", redis)
		writeFile(t, home, "token", token)
		writeFile(t, home, "password", password)
	}
	const conf = "redis: {url: 'redis://%s', username: proxy, password_file: redis}\nservice: {token_file: token, resp_password_file: password}\n"
	writeFile(t, home, "conf.yaml", fmt.Sprintf(conf, server.Addr()))
	secrets("old", "old", "old")
	s := serve(t, home, nil)
	status := func(token string) int {
		request, err := http.NewRequestWithContext(testContext(t), http.MethodPut, "http://"+s.http+"/v1/keys/k", strings.NewReader("v"))
		require.NoError(t, err)
		request.Header.Set("Authorization", "Bearer "+token)
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		return response.StatusCode
	}
	login := func(password string) *redis.Client {
		client := redis.NewClient(&redis.Options{Addr: s.resp, Password: password, MaxRetries: -1, DisableIdentity: true, PoolSize: 1})
		t.Cleanup(func() { _ = client.Close() })
		return client
	}
	ctx := testContext(t)
	before := login("old")
	require.NoError(t, before.Ping(ctx).Err())
	require.Equal(t, http.StatusNoContent, status("old"))
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.http+"/events", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer old")
	events, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = events.Body.Close() }()

	secrets("new", "new", "new")
	server.Do("ACL", "SETUSER", "proxy", ">new", "<old")
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`the configuration was read again`))
	text, _ := s.text()
	require.NotContains(t, text, "need a restart")
	require.Equal(t, http.StatusUnauthorized, status("old"))
	require.Equal(t, http.StatusNoContent, status("new"))
	_, err = io.Copy(io.Discard, events.Body)
	require.NoError(t, err, "the stream was opened with the old token, so it ends")
	require.ErrorContains(t, login("old").Ping(ctx).Err(), "WRONGPASS")
	require.NoError(t, login("new").Ping(ctx).Err())
	require.NoError(t, before.Ping(ctx).Err(), "a client that has logged in stays so")
	server.Do("CLIENT", "KILL", "USER", "proxy")
	eventually(t, "it has logged in anew, with the new password", func() bool {
		return status("new") == http.StatusNoContent && strings.Contains(fmt.Sprint(server.Do("ACL", "WHOAMI"), server.Do("CLIENT", "LIST")), "user=proxy")
	})

	// Whether there must be a token was asked of the interface that is served: it cannot be taken
	// away meanwhile.
	writeFile(t, home, "conf.yaml", fmt.Sprintf("redis: {url: 'redis://%s', username: proxy, password_file: redis}\n", server.Addr()))
	s.signal(syscall.SIGHUP)
	s.await(regexp.MustCompile(`need a restart" settings="service.resp_password, service.token"`))
	require.Equal(t, http.StatusUnauthorized, status(""))
	require.Error(t, login("").Ping(ctx).Err())
	text, _ = s.text()
	require.NotContains(t, text, "to=degraded", "all that time it had Redis")
}

func TestHealthcheckAsksTheProxyOfTheSameConfiguration(t *testing.T) {
	s := serve(t, t.TempDir(), nil, "--redis", "redis://127.0.0.1:1")
	_, port, err := net.SplitHostPort(s.http)
	require.NoError(t, err)
	got := runIn(t, t.TempDir(), []string{"ASIDE_SERVICE_PORT=" + port, "ASIDE_SERVICE_BIND=0.0.0.0"}, "healthcheck")
	require.Equal(t, 0, got.code, got.stderr)
	s.kill()
	got = runIn(t, t.TempDir(), []string{"ASIDE_SERVICE_PORT=" + port}, "healthcheck")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "the proxy does not answer")
	got = runIn(t, t.TempDir(), []string{"ASIDE_SERVICE_PORT=off"}, "healthcheck")
	require.Equal(t, 2, got.code)
}

// Redis under another name gets another directory by default: what waits in the old one must not be
// forgotten.
func TestWhatWaitsForTheSameRedisUnderAnotherNameIsNotForgotten(t *testing.T) {
	home := t.TempDir()
	first := serve(t, home, nil, "--redis", "redis://127.0.0.1:1")
	require.NoError(t, first.client().Set(testContext(t), "k", "v", 0).Err())
	while := serve(t, home, nil, "--redis", "redis://127.0.0.2:1")
	while.signal(syscall.SIGHUP) // what it has to say at its start comes before the answer to this
	while.await(regexp.MustCompile(`the configuration was read again`))
	first.kill()
	second := serve(t, home, nil, "--redis", "redis://localhost:1")
	line := second.await(regexp.MustCompile(`writes wait in the directory of another Redis.*`))
	require.Contains(t, line, "dir="+fallbackOf(t, first))
	text, _ := while.text()
	require.NotContains(t, text, "writes wait", "the first was running then")
}

func TestTwoProxiesDoNotShareADirectoryOrAPort(t *testing.T) {
	home := t.TempDir()
	s := serve(t, home, nil, "--redis", "redis://127.0.0.1:1")
	got := runIn(t, home, nil, "serve", "--port", "0", "--resp-port", "0", "--redis", "redis://127.0.0.1:1")
	require.Equal(t, 1, got.code, got.stderr)
	require.Contains(t, got.stderr, "the fallback directory is in use")
	_, port, err := net.SplitHostPort(s.http)
	require.NoError(t, err)
	got = runIn(t, home, nil, "serve", "--port", port, "--redis", "redis://127.0.0.1:2")
	require.Equal(t, 1, got.code, got.stderr)
	require.Contains(t, got.stderr, "service.port is "+port)
	require.Contains(t, got.stderr, "choose another one")
}

func TestServeTellsAtItsEndWhatAnOutageWouldHaveRefused(t *testing.T) {
	server := redistest.Start(t)
	s := serve(t, t.TempDir(), nil, "--redis", "redis://"+server.Addr(), "--check-app")
	ctx, client := testContext(t), s.client()
	require.NoError(t, client.Set(ctx, "k", "v", 0).Err())
	require.NoError(t, client.ZAdd(ctx, "board", redis.Z{Member: "secret"}).Err())
	require.NoError(t, client.Publish(ctx, "news", "secret").Err())
	status, metrics := s.fetch(http.MethodGet, "/metrics", "")
	require.Equal(t, http.StatusOK, status)
	require.Contains(t, metrics, `aside_check_app_commands_total{command="zadd",outage="refused"} 1`)
	s.signal(syscall.SIGTERM)
	require.Equal(t, 0, s.end())
	text, _ := s.text()
	require.Regexp(t, `(?m)^  1 +ZADD +- +refused +ZADD board …$`, text)
	require.Regexp(t, `(?m)^  1 +PUBLISH +- +refused +PUBLISH …$`, text)
	require.NotContains(t, text, "secret")
	require.NotRegexp(t, `(?m)^  1 +SET `, text)
}

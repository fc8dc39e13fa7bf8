package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/redistest"
)

func TestExplainAsksTheProxyOfTheSameConfiguration(t *testing.T) {
	server := redistest.Start(t)
	s := serve(t, t.TempDir(), []string{"ASIDE_SERVICE_TOKEN=secret"}, "--redis", "redis://"+server.Addr())
	server.Do("SET", "k", "the value")
	ask := func(token string, args ...string) result {
		return runIn(t, t.TempDir(), []string{"ASIDE_SERVICE_TOKEN=" + token}, append([]string{"explain", "k", "--url", "http://" + s.http}, args...)...)
	}
	got := ask("secret")
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "key  \"k\"\n")
	require.Contains(t, got.stdout, "holds                       a value\n")
	require.NotContains(t, got.stdout, "the value")
	require.Contains(t, ask("secret", "--value").stdout, "the value")
	got = ask("secret", "--json")
	var said struct{ Redis struct{ Holds string } }
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &said), got.stdout)
	require.Equal(t, "value", said.Redis.Holds)
	got = ask("wrong")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "401 Unauthorized: Authorization: the token is missing or wrong")
}

func TestExplainTellsWhatADirectoryHas(t *testing.T) {
	dir := written(t)
	got := runAside(t, "explain", "user:42", "--dir", dir)
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "record      of database 0: set\nmeans       it waits for Redis: the value is stored there")
	require.Contains(t, got.stdout, "holds       value, 12 bytes\n")
	require.NotContains(t, got.stdout, "Gott")
	got = runAside(t, "explain", "user:42", "--dir", dir, "--value")
	require.Contains(t, got.stdout, `"Grüß Gott\n"`)
	got = runAside(t, "explain", "user:42", "--dir", dir, "--json", "--value")
	var said struct {
		File    string
		Records []struct{ Op, Holds, Value, By string }
	}
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &said), got.stdout)
	require.Len(t, said.Records, 1)
	require.Equal(t, "Grüß Gott\n", said.Records[0].Value)
	require.Equal(t, "value", said.Records[0].Holds)
	require.Equal(t, "0000000000c0ffee", said.Records[0].By)
	require.Equal(t, fallback.FileOf(0, "user:42"), said.File)

	got = runAside(t, "explain", "nobody:has", "--dir", dir)
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, `nothing is known of "nobody:has"`)

	// What could not be read may have been the key's record.
	name := filepath.Join(dir, fallback.FileOf(0, "in a file"))
	content, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(name, append(content[:len(content)/2], "}"...), 0o600))
	got = runAside(t, "explain", "in a file", "--dir", dir)
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "problem     db/0/")
	require.Contains(t, got.stdout, "check the disk")
	got = runAside(t, "explain", "user:42", "--dir", dir)
	require.Contains(t, got.stderr, "1 problem in this directory, which may hide a record of this key, too")
}

// The token goes to nobody else: not to another program that has got the port.
func TestExplainSendsTheTokenToTheCertificateOfTheConfigurationOnly(t *testing.T) {
	server, home := redistest.Start(t), t.TempDir()
	selfSigned(t, home, "first")
	s := serve(t, home, []string{"ASIDE_SERVICE_TOKEN=secret"}, "--redis", "redis://"+server.Addr(), "--tls-cert", "cert.pem", "--tls-key", "key.pem")
	_, port, err := net.SplitHostPort(s.http)
	require.NoError(t, err)
	environ := []string{"ASIDE_SERVICE_TOKEN=secret", "ASIDE_SERVICE_PORT=" + port, "ASIDE_SERVICE_TLS_CERT=cert.pem", "ASIDE_SERVICE_TLS_KEY=key.pem"}
	got := runIn(t, home, environ, "explain", "k")
	require.Equal(t, 0, got.code, got.stderr)
	require.Contains(t, got.stdout, "holds                       nothing")
	selfSigned(t, home, "second") // and the proxy shows the first one still
	got = runIn(t, home, environ, "explain", "k")
	require.Equal(t, 1, got.code)
	require.Contains(t, got.stderr, "what answers shows another certificate than service.tls.cert")
}

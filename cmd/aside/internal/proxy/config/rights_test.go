package config_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// public is a directory that everybody may enter, as far as it is the test's.
func public(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rights") //nolint:usetesting // others may not enter what is above t.TempDir
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	dir, err = filepath.EvalSymlinks(dir)
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	return dir
}

func file(t *testing.T, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	require.NoError(t, os.Chmod(path, mode))
	return path
}

func TestFilesThatAllMayReadOrChangeAreWarnedOf(t *testing.T) {
	const plain, secret = "cache: {capacity: 1}\n", "service: {token: secret}\n"
	for _, test := range []struct {
		conf                string
		confMode, tokenMode os.FileMode
		want                string // "": nothing
	}{
		{plain, 0o644, 0o600, ""},
		{plain, 0o644, 0o640, ""},
		{plain, 0o644, 0o644, `service.token_file is "%s/token", which every user of this machine may read: take that away with chmod o= %[1]s/token`},
		{plain, 0o644, 0o602, `service.token_file is "%s/token", which every user of this machine may write: take that away with chmod o= %[1]s/token`},
		{plain, 0o644, 0o666, `service.token_file is "%s/token", which every user of this machine may read and write: take that away with chmod o= %[1]s/token`},
		{plain, 0o646, 0o600, `the configuration file is "%s/conf.yaml", which every user of this machine may write: take that away with chmod o= %[1]s/conf.yaml`},
		{secret, 0o640, 0, ""},
		{secret, 0o644, 0, `the configuration file is "%s/conf.yaml", which every user of this machine may read: take that away with chmod o= %[1]s/conf.yaml`},
		{"redis: {url: 'redis://u:p@localhost'}\n", 0o644, 0, `the configuration file is "%s/conf.yaml", which every user of this machine may read: take that away with chmod o= %[1]s/conf.yaml`},
	} {
		dir := public(t)
		from := config.Sources{File: file(t, dir, "conf.yaml", test.conf, test.confMode)}
		if test.tokenMode != 0 {
			from.Flags = map[string]string{"service.token_file": file(t, dir, "token", "secret", test.tokenMode)}
		}
		_, warnings, err := config.Load(from)
		require.NoError(t, err)
		if test.want == "" {
			require.Empty(t, warnings)
		} else {
			require.Equal(t, []string{fmt.Sprintf(test.want, dir)}, warnings)
		}
		require.NoError(t, os.Chmod(dir, 0o700))
		_, warnings, err = config.Load(from)
		require.NoError(t, err)
		require.Empty(t, warnings, "nobody comes to it")
	}
}

func TestADirectoryThatAllMayWriteIsWarnedOf(t *testing.T) {
	parent := public(t)
	dir := filepath.Join(parent, "fallback")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.Empty(t, config.WarnOfDirectory(dir))
	require.NoError(t, os.Chmod(dir, 0o777))
	require.Contains(t, config.WarnOfDirectory(dir), "which every user of this machine may write")
	require.Contains(t, config.WarnOfDirectory(dir), "chmod o-w "+dir)
	require.NoError(t, os.Chmod(dir, 0o700))
	require.NoError(t, os.Chmod(parent, 0o777))
	require.Contains(t, config.WarnOfDirectory(dir), "chmod o-w "+parent)
	require.NoError(t, os.Chmod(parent, 0o777|os.ModeSticky))
	require.Empty(t, config.WarnOfDirectory(dir))
}

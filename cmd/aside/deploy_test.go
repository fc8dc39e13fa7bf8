package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// What deploy/ says of the proxy, against the proxy.

const deploy = "../../deploy"

// manifest is a document of YAML.
type manifest = map[string]any

func manifests(t *testing.T, path string) (all []manifest) {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(deploy, path))
	require.NoError(t, err)
	for decoder := yaml.NewDecoder(bytes.NewReader(content)); ; {
		var m manifest
		err := decoder.Decode(&m)
		if errors.Is(err, io.EOF) {
			return all
		}
		require.NoError(t, err, path)
		all = append(all, m)
	}
}

// at is what stands at a path of names, and numbers for lists.
func at[T any](t *testing.T, in any, path ...any) (value T) {
	t.Helper()
	for i, step := range path {
		switch of := in.(type) {
		case manifest:
			in = of[step.(string)]
		case []any:
			in = of[step.(int)]
		default:
			t.Fatalf("there is no %v: %v is %T", path, path[:i], in)
		}
	}
	value, ok := in.(T)
	require.True(t, ok, "%v is %#v", path, in)
	return value
}

// configured is what the proxy goes by with this file ("": none) and environment; its secrets are
// where any are named.
func configured(t *testing.T, file string, environ ...string) config.Config {
	t.Helper()
	secrets := t.TempDir()
	here := func(s string) string {
		return regexp.MustCompile(`/run/secrets/(aside/)?([a-z-]+)`).ReplaceAllStringFunc(s, func(path string) string {
			return writeFile(t, secrets, filepath.Base(path), "secret\n")
		})
	}
	if file != "" {
		content, err := os.ReadFile(filepath.Join(deploy, file))
		require.NoError(t, err)
		file = writeFile(t, secrets, "conf.yaml", here(string(content)))
	}
	for i := range environ {
		environ[i] = here(environ[i])
	}
	c, warnings, err := config.Load(config.Sources{File: file, Environ: environ, ParseURL: func(url string) error {
		_, err := parseURL(url)
		return err
	}})
	require.NoError(t, err)
	require.Empty(t, warnings)
	return c
}

// endsWithin is how long the proxy may take to end.
func endsWithin(c config.Config) time.Duration {
	return c.Service.DrainDelay + c.Service.DrainTimeout + closingTakes
}

func sizeOf(t *testing.T, text string) int64 {
	t.Helper()
	m := regexp.MustCompile(`^(\d+)(Mi|Gi|g)$`).FindStringSubmatch(text)
	require.NotNil(t, m, "%q is no size", text)
	n, err := strconv.ParseInt(m[1], 10, 64)
	require.NoError(t, err)
	return n << map[string]int{"Mi": 20, "Gi": 30, "g": 30}[m[2]]
}

// fits checks that a memory limit is not less than what the proxy may come to hold.
func fits(t *testing.T, c config.Config, limit string) {
	t.Helper()
	held := c.Cache.MaxBytes*(100+gcPercent)/100 + c.Service.MaxReceiving
	require.GreaterOrEqual(t, sizeOf(t, limit), held+64<<20)
}

// image is what the Dockerfile gives each container.
func image(t *testing.T) (environ []string, user int) {
	t.Helper()
	content, err := os.ReadFile("../../Dockerfile")
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?:ENV|    ) ?(ASIDE_[A-Z_]+=\S+)(?: \\)?\n`).FindAllStringSubmatch(string(content), -1) {
		environ = append(environ, m[1])
	}
	require.Len(t, environ, 2)
	m := regexp.MustCompile(`\nUSER (\d+):`).FindStringSubmatch(string(content))
	require.NotNil(t, m)
	user, err = strconv.Atoi(m[1])
	require.NoError(t, err)
	return environ, user
}

func TestTheUnitOfSystemdFitsTheProxy(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(deploy, "systemd", "aside.service"))
	require.NoError(t, err)
	setting := func(name string) string {
		m := regexp.MustCompile(`(?m)^` + name + `=(.*)$`).FindStringSubmatch(string(content))
		require.NotNil(t, m, name)
		return m[1]
	}
	c := configured(t, "systemd/conf.yaml")
	require.Equal(t, "notify", setting("Type"))
	require.Equal(t, strconv.Itoa(exitUsage), setting("RestartPreventExitStatus"))
	stop, err := time.ParseDuration(setting("TimeoutStopSec"))
	require.NoError(t, err)
	require.GreaterOrEqual(t, stop, endsWithin(c))

	// The variables that it shows, for secrets.
	for _, name := range regexp.MustCompile(`ASIDE_[A-Z_]+`).FindAllString(string(content), -1) {
		require.True(t, slices.ContainsFunc(config.Settings(), func(s config.Setting) bool { return s.Env() == name }), name)
	}

	// The directory that systemd makes is where the records go.
	state := config.StateDir(func(name string) string {
		return map[string]string{"STATE_DIRECTORY": "/var/lib/" + setting("StateDirectory")}[name]
	}, "redis")
	require.True(t, strings.HasPrefix(state, "/var/lib/aside/"), state)
}

func TestTheManifestsOfKubernetesFitTheProxy(t *testing.T) {
	environ, user := image(t)
	c := configured(t, "kubernetes/base/conf.yaml", environ...)
	pod := at[map[string]any](t, manifests(t, "kubernetes/base/statefulset.yaml")[0], "spec", "template", "spec")
	container := at[map[string]any](t, pod, "containers", 0)
	require.GreaterOrEqual(t, time.Duration(at[int](t, pod, "terminationGracePeriodSeconds"))*time.Second, endsWithin(c))
	require.Equal(t, user, at[int](t, pod, "securityContext", "runAsUser"))
	fits(t, c, at[string](t, container, "resources", "limits", "memory"))
	ports := map[string]int{}
	for _, port := range at[[]any](t, container, "ports") {
		ports[at[string](t, port, "name")] = at[int](t, port, "containerPort")
	}
	require.Equal(t, map[string]int{"http": int(c.Service.Port), "redis": int(c.Service.RESPPort)}, ports)
	for _, service := range manifests(t, "kubernetes/base/services.yaml") {
		for _, port := range at[[]any](t, service, "spec", "ports") {
			require.Equal(t, ports[at[string](t, port, "targetPort")], at[int](t, port, "port"))
		}
	}
	require.True(t, strings.HasPrefix(c.Fallback.Dir, at[string](t, container, "volumeMounts", 0, "mountPath")+"/"))
	volume := at[map[string]any](t, manifests(t, "kubernetes/base/statefulset.yaml")[0], "spec", "volumeClaimTemplates", 0)
	require.Equal(t, at[string](t, container, "volumeMounts", 0, "name"), at[string](t, volume, "metadata", "name"))
	require.GreaterOrEqual(t, sizeOf(t, at[string](t, volume, "spec", "resources", "requests", "storage")), 2*c.Fallback.MaxBytes) // while it is rewritten, both are there

	// What the probes ask for.
	s := serve(t, t.TempDir(), []string{"ASIDE_SERVICE_TOKEN=secret"}, "--redis", "redis://127.0.0.1:1")
	for _, probe := range []string{"startupProbe", "readinessProbe", "livenessProbe"} {
		status, body := s.fetch("GET", at[string](t, container, probe, "httpGet", "path"), "")
		require.Equal(t, 200, status, "%s: %s", probe, body)
	}

	// The sidecar.
	sidecar := at[map[string]any](t, manifests(t, "kubernetes/sidecar/patch.yaml")[0], "spec", "template", "spec", "initContainers", 0)
	for _, variable := range at[[]any](t, sidecar, "env") { // those of the container hold, not the image's
		name := at[string](t, variable, "name") + "="
		environ = slices.DeleteFunc(environ, func(other string) bool { return strings.HasPrefix(other, name) })
		environ = append(environ, name+at[string](t, variable, "value"))
	}
	c = configured(t, "", environ...)
	fits(t, c, at[string](t, sidecar, "resources", "limits", "memory"))
	require.Equal(t, user, at[int](t, sidecar, "securityContext", "runAsUser"))
	application := manifests(t, "kubernetes/sidecar-example/application.yaml")[0]
	require.GreaterOrEqual(t, time.Duration(at[int](t, application, "spec", "template", "spec", "terminationGracePeriodSeconds"))*time.Second, endsWithin(c))
	require.Equal(t, fmt.Sprintf("redis://127.0.0.1:%d", c.Service.RESPPort), at[string](t, application, "spec", "template", "spec", "containers", 0, "env", 0, "value"))
	require.Equal(t, at[string](t, sidecar, "volumeMounts", 0, "name"), at[string](t, application, "spec", "volumeClaimTemplates", 0, "metadata", "name"))
	require.True(t, strings.HasPrefix(c.Fallback.Dir, at[string](t, sidecar, "volumeMounts", 0, "mountPath")+"/"))
}

func TestTheComposeFilesFitTheProxy(t *testing.T) {
	for path, secrets := range map[string]int{"compose/compose.yaml": 2, "../docker-compose.yml": 0} {
		environ, _ := image(t)
		service := at[map[string]any](t, manifests(t, path)[0], "services", "aside")
		for name, value := range at[map[string]any](t, service, "environment") {
			environ = append(environ, name+"="+value.(string))
		}
		c := configured(t, "", environ...)
		grace, err := time.ParseDuration(at[string](t, service, "stop_grace_period"))
		require.NoError(t, err)
		require.GreaterOrEqual(t, grace, endsWithin(c), path)
		require.Equal(t, []any{fmt.Sprintf("127.0.0.1:%[1]d:%[1]d", c.Service.Port), fmt.Sprintf("127.0.0.1:%[1]d:%[1]d", c.Service.RESPPort)}, at[[]any](t, service, "ports"))
		mount := strings.SplitN(at[string](t, service, "volumes", 0), ":", 2)[1]
		require.True(t, strings.HasPrefix(c.Fallback.Dir, mount+"/"), path)
		require.Equal(t, secrets > 0, c.Service.Token != "" && c.Service.RESPPassword != "", path)
		if limit, ok := service["mem_limit"].(string); ok {
			fits(t, c, limit)
		}
	}
}

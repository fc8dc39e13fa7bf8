package web

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
	"github.com/redaside/aside/internal/redistest"
)

// What monitoring/ has, against a scrape.

const monitoring = "../../../../../monitoring"

// everything is what a process with all of our metrics exports after it has done a bit of each.
func everything(t *testing.T) map[string]*dto.MetricFamily {
	t.Helper()
	durations := asideprom.NewObserver()
	f := newFront(t, setup{
		client: []func(*aside.Options){durable(t), func(o *aside.Options) { o.Observer = durations }},
		web:    Options{Observer: durations, RESP: func() (int64, int64) { return 0, 0 }, RefusedLogins: func() int64 { return 0 }, InPart: func() int64 { return 0 }},
	})
	f.put("k", "v")
	f.server.ObserveRESP(answered("get", time.Millisecond, false))
	_, err := f.client.Get(context.Background(), time.Minute, "loaded", func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	f.redis.Kill()
	f.awaitMode(aside.Degraded)
	f.put("k", "w")
	f.redis.RestartKeepingData()
	f.awaitMode(aside.Healthy)
	// Those of what did not happen here have no series.
	durations.Observe(context.Background(), aside.Event{Kind: aside.EventLockWait})
	families := f.scrape()
	return families
}

var (
	metricName = regexp.MustCompile(`\b(aside_[a-z_]+)(\{[^}]*\})?`)
	matcher    = regexp.MustCompile(`([a-z_]+)\s*(=~|!=|=)\s*"([^"]*)"`)
	grouping   = regexp.MustCompile(`\b(?:by|without|on|ignoring)\s*\(([^)]*)\)`)
)

// exists checks that each metric of an expression is exported, with the labels and values that the
// expression asks for.
func exists(t *testing.T, families map[string]*dto.MetricFamily, where, expr string) (metrics int) {
	t.Helper()
	labels := map[string]map[string]bool{"job": nil, "instance": nil, "cache": nil, "le": nil} // these are Prometheus's, or the service's
	for _, m := range metricName.FindAllStringSubmatch(expr, -1) {
		metrics++
		name := m[1]
		family := families[name]
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			if base, ok := strings.CutSuffix(name, suffix); ok && family == nil && families[base].GetType() == dto.MetricType_HISTOGRAM {
				family = families[base]
			}
		}
		require.NotNil(t, family, "%s: %s is not exported: %s", where, name, expr)
		has := map[string]map[string]bool{}
		for _, metric := range family.Metric {
			for _, pair := range metric.Label {
				if has[pair.GetName()] == nil {
					has[pair.GetName()] = map[string]bool{}
				}
				has[pair.GetName()][pair.GetValue()] = true
				labels[pair.GetName()] = nil
			}
		}
		for _, of := range matcher.FindAllStringSubmatch(m[2], -1) {
			if _, foreign := map[string]bool{"job": true, "instance": true, "cache": true}[of[1]]; foreign {
				continue
			}
			require.Contains(t, has, of[1], "%s: %s has no label %s: %s", where, name, of[1], expr)
			if of[2] == "=" {
				require.True(t, has[of[1]][of[3]], "%s: %s is never %s=%q: %s", where, name, of[1], of[3], expr)
			}
		}
	}
	for _, list := range grouping.FindAllStringSubmatch(expr, -1) {
		for label := range strings.SplitSeq(list[1], ",") {
			require.Contains(t, labels, strings.TrimSpace(label), "%s: none of its metrics has this label: %s", where, expr)
		}
	}
	return metrics
}

func TestDashboardAndAlertsNameWhatIsExported(t *testing.T) {
	families := everything(t)
	content, err := os.ReadFile(filepath.Join(monitoring, "grafana", "dashboards", "aside.json"))
	require.NoError(t, err)
	var dashboard struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
			GridPos struct{ X, Y, W, H int }
		}
		Templating struct{ List []struct{ Definition string } }
	}
	require.NoError(t, json.Unmarshal(content, &dashboard))
	require.Equal(t, "aside", dashboard.UID)
	seen, ids := 0, map[int]bool{}
	for _, panel := range dashboard.Panels {
		require.False(t, ids[panel.ID], "%s has the id of another panel", panel.Title)
		ids[panel.ID] = true
		require.LessOrEqual(t, panel.GridPos.X+panel.GridPos.W, 24, panel.Title)
		if panel.Type != "row" {
			require.NotEmpty(t, panel.Targets, panel.Title)
		}
		for _, target := range panel.Targets {
			require.Positive(t, exists(t, families, "panel "+panel.Title, target.Expr))
			seen++
		}
	}
	require.Greater(t, seen, 30)
	for _, variable := range dashboard.Templating.List {
		exists(t, families, "a variable", variable.Definition)
	}

	content, err = os.ReadFile(filepath.Join(monitoring, "prometheus", "rules", "aside.yml"))
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert, Expr         string
				Labels, Annotations map[string]string
			}
		}
	}
	require.NoError(t, yaml.Unmarshal(content, &rules))
	tests, err := os.ReadFile(filepath.Join(monitoring, "prometheus", "rules_test.yml"))
	require.NoError(t, err)
	docs := "../../../../../docs/"
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			require.Positive(t, exists(t, families, "alert "+rule.Alert, rule.Expr))
			require.Contains(t, []string{"page", "ticket"}, rule.Labels["severity"], rule.Alert)
			require.Contains(t, string(tests), rule.Alert, "rules_test.yml does not try it")
			page, anchor, ok := strings.Cut(strings.TrimPrefix(rule.Annotations["runbook_url"], "https://github.com/redaside/aside/blob/main/docs/"), "#")
			require.True(t, ok, rule.Alert)
			text, err := os.ReadFile(docs + page)
			require.NoError(t, err, rule.Alert)
			require.Contains(t, string(text), "](#"+anchor+")", "%s: %s links to no such heading itself", rule.Alert, page)
		}
	}
}

// promtool runs it in monitoring/prometheus, and returns what it says if that is good.
func promtool(t *testing.T, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		redistest.Skip(t, "this test needs promtool: apt-get install prometheus")
	}
	command := exec.CommandContext(t.Context(), path, args...)
	command.Dir = filepath.Join(monitoring, "prometheus")
	said, err := command.CombinedOutput()
	require.NoError(t, err, "%v: %s", args, said)
	require.NotContains(t, string(said), "FAILED")
	return string(said)
}

func TestTheAlertsFireWhenTheyShould(t *testing.T) {
	promtool(t, "check", "config", "--syntax-only", "prometheus.yml")
	promtool(t, "check", "rules", "rules/aside.yml")
	promtool(t, "test", "rules", "rules_test.yml")
}

// The dashboard's expressions are PromQL: as recording rules promtool reads them.
func TestTheDashboardCanBeEvaluated(t *testing.T) {
	content, err := os.ReadFile(filepath.Join(monitoring, "grafana", "dashboards", "aside.json"))
	require.NoError(t, err)
	var dashboard struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal(content, &dashboard))
	type rule struct {
		Record string
		Expr   string
	}
	var rules []rule
	variables := strings.NewReplacer("$__rate_interval", "5m", "$job", ".*", "$instance", ".*")
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			rules = append(rules, rule{fmt.Sprint("dashboard:", len(rules)), variables.Replace(target.Expr)})
		}
	}
	text, err := yaml.Marshal(map[string]any{"groups": []any{map[string]any{"name": "dashboard", "rules": rules}}})
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "rules.yml")
	require.NoError(t, os.WriteFile(path, text, 0o600))
	require.Contains(t, promtool(t, "check", "rules", path), fmt.Sprint(len(rules), " rules found"))
}

// What docker-compose.yml mounts is there, and belongs together: no container is started here.
func TestTheComposeProfileHasWhatItMounts(t *testing.T) {
	root := "../../../../.."
	read := func(name string, to any) {
		content, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		require.NoError(t, yaml.Unmarshal(content, to), name)
	}
	var compose struct {
		Services map[string]struct {
			Image, Build string
			Profiles     []string
			Volumes      []string
		}
	}
	read("docker-compose.yml", &compose)
	mounted := map[string]string{}
	for _, name := range []string{"prometheus", "grafana", "aside"} {
		service, ok := compose.Services[name]
		require.True(t, ok, name)
		require.Contains(t, service.Profiles, "monitoring", name)
		for _, volume := range service.Volumes {
			from, to, _ := strings.Cut(strings.TrimSuffix(volume, ":ro"), ":")
			if strings.HasPrefix(from, "./") {
				_, err := os.Stat(filepath.Join(root, from))
				require.NoError(t, err)
				mounted[to] = from
			}
		}
	}
	var config struct {
		RuleFiles     []string `yaml:"rule_files"`
		ScrapeConfigs []struct {
			StaticConfigs []struct{ Targets []string } `yaml:"static_configs"`
		} `yaml:"scrape_configs"`
	}
	read("monitoring/prometheus/prometheus.yml", &config)
	require.Equal(t, []string{"/etc/prometheus/rules/*.yml"}, config.RuleFiles)
	require.Equal(t, "./monitoring/prometheus/rules", mounted["/etc/prometheus/rules"])
	require.Equal(t, []string{"aside:9997"}, config.ScrapeConfigs[0].StaticConfigs[0].Targets)
	var sources struct {
		Datasources []struct{ UID, URL string }
	}
	read("monitoring/grafana/provisioning/datasources/prometheus.yml", &sources)
	require.Equal(t, "http://prometheus:9090", sources.Datasources[0].URL)
	var providers struct {
		Providers []struct{ Options struct{ Path string } }
	}
	read("monitoring/grafana/provisioning/dashboards/aside.yml", &providers)
	require.Equal(t, "./monitoring/grafana/dashboards", mounted[providers.Providers[0].Options.Path])
}

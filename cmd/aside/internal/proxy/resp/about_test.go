package resp

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What tools ask a server about itself, and read by name.

var field = regexp.MustCompile(`([a-z-]+)=\S*`)

// redis-py, among others, looks for a field by its name and fails where it is missing.
func TestCLIENTLISTHasTheFieldsOfRedis(t *testing.T) {
	for _, protocol := range []string{"2", "3"} {
		w := newTwins(t, protocol)
		names := func(reply string) (all []string) {
			for _, m := range field.FindAllStringSubmatch(strings.SplitN(reply, "\n", 2)[0], -1) {
				all = append(all, m[1])
			}
			return all
		}
		for _, text := range []string{"CLIENT LIST", "CLIENT INFO", "CLIENT LIST TYPE normal"} {
			want, got := w.direct.do(line(text)...), w.proxy.do(line(text)...)
			require.NotEmpty(t, names(want))
			require.Equal(t, names(want), names(got), text)
			require.Contains(t, got, "resp="+protocol)
		}
		require.Contains(t, w.proxy.do("CLIENT", "INFO"), "cmd=client")
		for _, text := range []string{
			"CLIENT LIST TYPE pubsub", "CLIENT LIST TYPE master", "CLIENT LIST TYPE nonsense", "CLIENT LIST TYPE", "CLIENT LIST ID", "CLIENT LIST ID x",
			"CLIENT LIST ID 999999", "CLIENT LIST nonsense", "CLIENT GETREDIR", "CLIENT TRACKINGINFO", "COMMAND INFO nonsense", "COMMAND INFO nonsense none",
		} {
			w.same(line(text)...)
		}
		other := dial(t, w.proxy.RemoteAddr().String())
		id := strings.TrimPrefix(other.do("CLIENT", "ID"), ":")
		require.Len(t, strings.Split(strings.TrimSpace(w.proxy.do("CLIENT", "LIST")), "\n"), 2)
		only := w.proxy.do("CLIENT", "LIST", "ID", id, "999")
		require.Equal(t, 1, strings.Count(only, "\n"))
		require.Contains(t, only, "id="+id+" ")
	}
}

// An error that names a way must lead somewhere.
func TestHELPIsThereWhereErrorsNameIt(t *testing.T) {
	w := newTwins(t, "3")
	for _, command := range []string{"CLIENT", "COMMAND", "CONFIG"} {
		require.Contains(t, w.proxy.do(command, "nonsense"), "Try "+command+" HELP.")
		want, got := w.direct.do(command, "HELP"), w.proxy.do(command, "HELP")
		_, want, _ = strings.Cut(want, " ")
		_, got, _ = strings.Cut(got, " ")
		first, _, _ := strings.Cut(want, ": ")
		require.True(t, strings.HasPrefix(got, first[:strings.Index(first, "are:")+4]), "%q and %q", want, got)
		require.Contains(t, got, "+HELP")
	}
}

// What redis_exporter reads of INFO, and of which it makes series; in Redis's sections.
func TestINFOHasWhatExportersRead(t *testing.T) {
	w := newTwins(t, "2")
	sections := func(p *peer, args ...string) map[string]string {
		all, section := map[string]string{}, ""
		for text := range strings.Lines(p.do(append([]string{"INFO"}, args...)...)[1:]) {
			text = strings.TrimSpace(text)
			if name, ok := strings.CutPrefix(text, "# "); ok {
				section = name
			} else if name, _, ok := strings.Cut(text, ":"); ok {
				all[name] = section
			}
		}
		return all
	}
	redis, ours := sections(w.direct), sections(w.proxy)
	for name := range strings.FieldsSeq(`redis_version redis_build_id redis_mode os run_id tcp_port uptime_in_seconds uptime_in_days process_id connected_clients maxclients blocked_clients
		tracking_clients used_memory used_memory_rss maxmemory mem_fragmentation_ratio loading rdb_changes_since_last_save rdb_bgsave_in_progress rdb_last_save_time
		rdb_last_bgsave_status aof_enabled aof_rewrite_in_progress total_connections_received total_commands_processed instantaneous_ops_per_sec rejected_connections
		expired_keys evicted_keys keyspace_hits keyspace_misses pubsub_channels pubsub_patterns latest_fork_usec role connected_slaves master_repl_offset cluster_enabled`) {
		require.NotEmpty(t, redis[name], name)
		require.Equal(t, redis[name], ours[name], name)
	}
	require.Len(t, sections(w.proxy, "clients"), 5)
	require.NotEqual(t, "0", w.proxy.do("INFO", "memory"))
}

// What Redis refuses inside one of our scripts is told as if there were none.
func TestAFullRedisIsSaidInItsOwnWords(t *testing.T) {
	w := newTwins(t, "2")
	w.same("SET", "n", "1")
	w.direct.do("CONFIG", "SET", "maxmemory", "1")
	w.behind.Do("CONFIG", "SET", "maxmemory", "1")
	for _, text := range []string{"SET a 1", "SET a 1 EX 10", "SETNX a 1", "SET a 1 NX", "INCR n", "APPEND n 1", "SETEX a 10 1", "GET n", "DEL n"} {
		w.same(line(text)...)
	}
	require.Contains(t, w.proxy.do("MSET", "a", "1"), "-OOM command not allowed when used memory > 'maxmemory'. (1 of 1 keys)")
	for text, want := range map[string]string{
		"OOM command not allowed when used memory > 'maxmemory'. script: 0123456789012345678901234567890123456789, on @user_script:5.":                   "OOM command not allowed when used memory > 'maxmemory'.",
		"Error running script (call to f_0123456789012345678901234567890123456789): @user_script:3: @user_script: 3: -OOM command not allowed when used": "OOM command not allowed when used",
		"ERR value is not an integer or out of range": "ERR value is not an integer or out of range",
		"ERR no script: of ours":                      "ERR no script: of ours",
	} {
		require.Equal(t, want, withoutScript(text), fmt.Sprint(text))
	}
}

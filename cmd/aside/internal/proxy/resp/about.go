package resp

import (
	"fmt"
	"os"
	"path"
	"runtime"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside"
)

// Commands by which tools ask a server about itself.

// redisVersion is the version of Redis whose replies and errors ours are. Clients choose by it what
// they may ask.
const redisVersion = "7.0.0"

func commandCommand(c *conn, args []string) {
	if len(args) == 0 {
		c.array(len(commandNames))
		for _, name := range commandNames {
			c.commandInfo(name)
		}
		return
	}
	named := commandNames
	if len(args) > 1 {
		named = args[1:]
	}
	switch sub := strings.ToUpper(args[0]); sub {
	case "COUNT":
		if len(args) != 1 {
			c.error(wrongNumber("command|count"))
			return
		}
		c.int(int64(len(commandNames)))
	case "LIST":
		if len(args) != 1 {
			c.error(syntaxError)
			return
		}
		lower := make([]string, len(commandNames))
		for i, name := range commandNames {
			lower[i] = strings.ToLower(name)
		}
		c.strings(lower)
	case "INFO":
		c.array(len(named))
		for _, name := range named {
			c.commandInfo(name)
		}
	case "DOCS":
		var known []string
		for _, name := range named {
			if name, ok := intern([]byte(name)); ok {
				known = append(known, name)
			}
		}
		c.mapping(len(known))
		for _, name := range known {
			c.bulk(strings.ToLower(name))
			c.mapping(2)
			c.bulk("summary")
			c.bulk(commands[name].summary)
			c.bulk("group")
			c.bulk("string")
		}
	case "HELP":
		c.help("COMMAND", "(no subcommand)", "COUNT", "DOCS [<command-name> ...]", "INFO [<command-name> ...]", "LIST")
	default:
		c.error(unknownSubcommand("COMMAND", args[0]))
	}
}

// commandInfo writes the ten elements of Redis 7; null for a command that is not served.
func (c *conn) commandInfo(name string) {
	name, ok := intern([]byte(name))
	if !ok {
		c.null()
		return
	}
	cmd := commands[name]
	c.array(10)
	c.bulk(strings.ToLower(name))
	c.int(int64(cmd.arity))
	flags := strings.Fields(cmd.flags)
	c.setOf(len(flags))
	for _, flag := range flags {
		c.simple(flag)
	}
	for _, n := range cmd.keys {
		c.int(int64(n))
	}
	c.setOf(0) // ACL categories
	c.array(0) // tips
	c.array(0) // key specifications
	c.array(0) // subcommands
}

// config answers GET of what clients look for when they connect; nothing can be set.
func config(c *conn, args []string) {
	if strings.EqualFold(args[0], "HELP") {
		c.help("CONFIG", "GET <pattern>")
		return
	}
	if !strings.EqualFold(args[0], "GET") {
		c.error(unknownSubcommand("CONFIG", args[0]))
		return
	}
	if len(args) < 2 {
		c.error(wrongNumber("config|get"))
		return
	}
	o := &c.server.options
	settings := [][2]string{
		{"appendonly", "no"}, {"databases", strconv.Itoa(o.DB + 1)}, {"maxclients", strconv.Itoa(o.MaxConnections)}, {"maxmemory", "0"},
		{"proto-max-bulk-len", strconv.Itoa(o.MaxValueBytes)}, {"save", ""}, {"timeout", strconv.Itoa(int(o.IdleTimeout.Seconds()))},
	}
	var found [][2]string
	for _, s := range settings {
		for _, pattern := range args[1:] {
			if match, err := path.Match(strings.ToLower(pattern), s[0]); err == nil && match {
				found = append(found, s)
				break
			}
		}
	}
	c.mapping(len(found))
	for _, s := range found {
		c.bulk(s[0])
		c.bulk(s[1])
	}
}

func info(c *conn, args []string) {
	s := c.server
	wanted := func(section string) bool {
		for _, arg := range args {
			switch strings.ToLower(arg) {
			case section, "all", "everything", "default":
				return true
			}
		}
		return len(args) == 0
	}
	var b strings.Builder
	begin := func(section string) bool {
		if !wanted(strings.ToLower(section)) {
			return false
		}
		if b.Len() > 0 {
			b.WriteString("\r\n")
		}
		fmt.Fprintf(&b, "# %s\r\n", section)
		return true
	}
	line := func(name string, value any) { fmt.Fprintf(&b, "%s:%v\r\n", name, value) }
	stats := s.Stats()
	if begin("Server") {
		line("redis_version", redisVersion)
		line("redis_git_sha1", "00000000")
		line("redis_git_dirty", 0)
		line("redis_build_id", "0")
		line("redis_mode", "standalone")
		line("os", runtime.GOOS+" "+runtime.GOARCH)
		line("arch_bits", strconv.IntSize)
		line("gcc_version", "0.0.0")
		line("run_id", s.runID)
		line("process_id", os.Getpid())
		if _, port, ok := cutLast(c.net.LocalAddr().String(), ":"); ok {
			line("tcp_port", port)
		}
		up := time.Since(s.began)
		line("uptime_in_seconds", int64(up.Seconds()))
		line("uptime_in_days", int64(up.Hours()/24))
	}
	if begin("Clients") {
		line("connected_clients", stats.Connected)
		line("cluster_connections", 0)
		line("maxclients", s.options.MaxConnections)
		line("blocked_clients", s.blocked.Load())
		line("tracking_clients", 0)
	}
	if begin("Memory") { // of this process
		used, all := memoryUsed()
		line("used_memory", used)
		line("used_memory_rss", all)
		line("maxmemory", 0)
		line("maxmemory_policy", "noeviction")
		line("mem_fragmentation_ratio", fmt.Sprintf("%.2f", float64(all)/float64(max(used, 1))))
	}
	if begin("Persistence") { // Redis's business
		line("loading", 0)
		line("rdb_changes_since_last_save", 0)
		line("rdb_bgsave_in_progress", 0)
		line("rdb_last_save_time", s.began.Unix())
		line("rdb_last_bgsave_status", "ok")
		line("aof_enabled", 0)
		line("aof_rewrite_in_progress", 0)
	}
	if begin("Stats") {
		line("total_connections_received", stats.Connections)
		line("total_commands_processed", stats.Commands)
		line("instantaneous_ops_per_sec", 0)
		line("rejected_connections", stats.Refused)
		line("expired_keys", 0)
		line("evicted_keys", 0)
		line("total_error_replies", stats.Failed)
		client := s.store.Client().Stats()
		line("keyspace_hits", client.MemoryHits+client.RedisHits+client.DiskHits)
		line("keyspace_misses", s.store.Misses())
		line("pubsub_channels", 0)
		line("pubsub_patterns", 0)
		line("latest_fork_usec", 0)
	}
	if begin("Replication") {
		line("role", "master")
		line("connected_slaves", 0)
		line("master_replid", s.runID)
		line("master_repl_offset", 0)
	}
	if begin("Cluster") {
		line("cluster_enabled", 0)
	}
	if begin("Aside") {
		health, client := s.store.Client().Health(), s.store.Client().Stats()
		line("aside_mode", health.Mode)
		line("aside_mode_since", health.Since.UTC().Format(time.RFC3339))
		line("aside_durable", yesNo(health.Durable))
		line("aside_answers_in_part", stats.InPart)
		line("aside_pending", client.Pending)
		line("aside_memory_entries", client.MemoryEntries)
		line("aside_memory_bytes", client.MemoryBytes)
		if health.Mode != aside.Healthy && health.Err != nil {
			line("aside_error", strings.Join(strings.Fields(health.Err.Error()), " "))
		}
	}
	c.text(b.String())
}

// memoryUsed is what this process's heap holds, and what it has from the operating system.
func memoryUsed() (used, all uint64) {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/total:bytes"}, {Name: "/memory/classes/heap/released:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64() - samples[2].Value.Uint64()
}

func yesNo(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

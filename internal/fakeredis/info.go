package fakeredis

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// What is about the server.

const version = "7.4.0"

func info(s *Server, _ *client, args []string) any {
	sections := []struct{ name, text string }{
		{"server", fmt.Sprintf("# Server\r\nredis_version:%s\r\nredis_mode:standalone\r\nrun_id:%s\r\ntcp_port:0\r\nserver_time_usec:%d\r\nuptime_in_seconds:%d\r\n",
			version, s.run, s.now, (s.now-s.born.UnixMicro())/1e6)},
		{"clients", fmt.Sprintf("# Clients\r\nconnected_clients:%d\r\n", len(s.clients))},
		{"memory", fmt.Sprintf("# Memory\r\nused_memory:%d\r\nmaxmemory:%d\r\nmaxmemory_policy:noeviction\r\n", s.data.bytes, s.max)},
		{"persistence", "# Persistence\r\nloading:0\r\n"},
		{"stats", "# Stats\r\nevicted_keys:0\r\n"},
		{"replication", fmt.Sprintf("# Replication\r\nrole:master\r\nconnected_slaves:0\r\nmaster_replid:%s\r\nmaster_repl_offset:0\r\n", s.run)},
		{"keyspace", "# Keyspace\r\n"},
	}
	var texts []string
	for _, section := range sections {
		if len(args) == 0 || slices.ContainsFunc(args, func(a string) bool {
			a = strings.ToLower(a)
			return a == section.name || a == "all" || a == "default" || a == "everything"
		}) {
			texts = append(texts, section.text)
		}
	}
	return verbatim(strings.Join(texts, "\r\n"))
}

func config(s *Server, _ *client, args []string) any {
	known := map[string]string{"proto-max-bulk-len": strconv.Itoa(longestArg), "maxmemory": strconv.FormatInt(s.max, 10), "maxmemory-policy": "noeviction", "databases": "1"}
	switch strings.ToUpper(args[0]) {
	case "GET":
		found := pairs{}
		for _, name := range slices.Sorted(maps.Keys(known)) {
			if slices.ContainsFunc(args[1:], func(pattern string) bool { return matches(strings.ToLower(pattern), name) }) {
				found = append(found, name, known[name])
			}
		}
		return found
	case "SET":
		if len(args) != 3 {
			return badNumber("config|set")
		}
		if !strings.EqualFold(args[1], "maxmemory") {
			return failure("ERR Unknown option or number of arguments for CONFIG SET - '" + args[1] + "'")
		}
		n, err := strconv.ParseInt(args[2], 10, 64)
		if err != nil || n < 0 {
			return failure("ERR CONFIG SET failed (possibly related to argument 'maxmemory') - argument must be a memory value")
		}
		s.max = n
		return okay
	case "RESETSTAT", "REWRITE":
		return okay
	}
	return failure("ERR unknown subcommand '" + args[0] + "'. Try CONFIG HELP.")
}

func flush(s *Server, _ *client, args []string) any {
	if len(args) > 1 || len(args) == 1 && !strings.EqualFold(args[0], "SYNC") && !strings.EqualFold(args[0], "ASYNC") {
		return syntax
	}
	s.clear()
	s.flushed()
	return okay
}

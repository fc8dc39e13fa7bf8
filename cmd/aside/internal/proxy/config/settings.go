package config

import (
	"math"
	"strings"
	"time"
)

// Setting is one thing that can be set.
type Setting struct {
	Name   string // in the file, sections joined by dots: cache.capacity
	Help   string // one or two sentences, for --help and the reference
	Group  string // the section
	Secret bool   // its value is never shown, and there is no flag for it
	Bool   bool

	Choices []string // what it may be, where these are few words; nil: something else
	Default string   // as one would write it; "" for none
	Type    string

	value value
	file  *secretFile // of a setting that ends in _file
}

// secretFile is the name of a file that holds another setting.
type secretFile struct{ of string }

func (s Setting) isFile() bool { return s.file != nil }

// Env is its environment variable.
func (s Setting) Env() string {
	return "ASIDE_" + strings.ToUpper(strings.ReplaceAll(s.Name, ".", "_"))
}

// Flag is its flag without the dashes: its name with dashes, without "service.". "" for a secret,
// which every user of the machine could read there.
func (s Setting) Flag() string {
	if s.Secret {
		return ""
	}
	if s.Name == "redis.url" {
		return "redis"
	}
	return strings.NewReplacer(".", "-", "_", "-").Replace(strings.TrimPrefix(s.Name, "service."))
}

// Settings are all there are, in the order of the reference.
func Settings() []Setting {
	c := Default()
	return c.settings()
}

// Default is what holds where nothing is set.
func Default() Config {
	var c Config
	for _, s := range c.settings() {
		if s.Default == "" {
			continue
		}
		if err := s.value.Set(s.Default); err != nil {
			panic("config: the default of " + s.Name + " " + err.Error()) // a mistake in the table below, which every test finds
		}
	}
	return c
}

// settings is the table. Its values are c's.
func (c *Config) settings() []Setting {
	const day = 24 * time.Hour
	fileOf := map[string]*string{}
	secret := func(name string) text {
		fileOf[name] = new(string)
		return text{fileOf[name]}
	}
	all := []Setting{
		{Name: "redis.url", Default: "redis://127.0.0.1:6379", value: text{&c.Redis.URL},
			Help: "Redis: redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path. " +
				"Cluster: ?addr=host:port for each further node. Sentinel: ?master_set=NAME, with the Sentinels as addresses."},
		{Name: "redis.addrs", value: list{&c.Redis.Addrs},
			Help: "Addresses (host:port) instead of redis.url's: nodes of a cluster, or Sentinels. TLS, database and master_set still come from the url."},
		{Name: "redis.username", value: text{&c.Redis.Username}, Help: "ACL user, instead of the url's. Read again on SIGHUP."},
		{Name: "redis.password", Secret: true, value: text{&c.Redis.Password}, Help: "Password, instead of the url's. Read again on SIGHUP, for connections that are made from then on."},
		{Name: "redis.password_file", value: secret("redis.password"), Help: "File that holds redis.password."},
		{Name: "redis.tls.ca", value: path{text{&c.Redis.TLS.CA}, "file"},
			Help: "File with the authorities (PEM) that may have signed Redis's certificate, instead of those that this machine trusts. For rediss://."},
		{Name: "redis.tls.cert", value: path{text{&c.Redis.TLS.Cert}, "file"},
			Help: "File with the certificate chain (PEM) that is shown to Redis (tls-auth-clients). Read again on SIGHUP."},
		{Name: "redis.tls.key", value: path{text{&c.Redis.TLS.Key}, "file"}, Help: "File with its key (PEM)."},
		{Name: "redis.timeout", Default: "250ms", value: duration{&c.Redis.Timeout, time.Millisecond, time.Minute, ""},
			Help: "How long one request to Redis may take before the proxy goes on without it."},

		{Name: "cache.capacity", Default: "100000", value: number{&c.Cache.Capacity, 0, math.MaxInt32, "keys"},
			Help: "Keys held in local memory; the least recently used goes first. 0 holds none."},
		{Name: "cache.expiry", Default: "0", value: duration{&c.Cache.Expiry, time.Millisecond, 366 * day, "no bound of its own"},
			Help: "How long a key is held in local memory at most, whatever its ttl. 0: until it expires, or Redis invalidates it."},
		{Name: "cache.max_bytes", Default: "1GiB", value: size{&c.Cache.MaxBytes, 1 << 20, 1 << 50},
			Help: "How many bytes local memory may hold, keys and overhead included, as estimated. It applies beside cache.capacity."},

		{Name: "cache.degraded_ttl", Default: "30s", value: duration{&c.Cache.DegradedTTL, time.Millisecond, 366 * day, "until the key expires"},
			Help: "How long, while Redis is away, values in local memory are still served, as the proxy learns of no changes. " +
				"A value that was written through this proxy meanwhile is served until it expires. 0: all are."},
		{Name: "cache.grace", Default: "0", value: duration{&c.Cache.Grace, time.Millisecond, 366 * day, "none"},
			Help: "How long a value that is PUT with a ttl is kept beyond it, for HTTP requests that take what is stale " +
				"(Cache-Control: max-stale, stale-if-error). By RESP it is there until that is over, too. 0: none."},
		{Name: "cache.keep_written", Default: "true", Bool: true, value: boolean{&c.Cache.KeepWritten},
			Help: "Read values that were written through this proxy back into local memory, so that they are there when Redis goes away. " +
				"It costs one more request to Redis for each write. false: only values that are read are held."},

		{Name: "service.bind", Default: "127.0.0.1", value: text{&c.Service.Bind},
			Help: "Address of the interface to serve. Any but loopback needs service.token and service.resp_password, or service.insecure."},
		{Name: "service.port", Default: "9997", value: port{&c.Service.Port}, Help: "Port for HTTP. 0: any that is free. off: none."},
		{Name: "service.resp_port", Default: "9998", value: port{&c.Service.RESPPort}, Help: "Port for RESP, Redis's protocol. 0: any that is free. off: none."},
		{Name: "service.concurrency", Default: "0", value: number{&c.Service.Concurrency, 0, math.MaxInt32, "requests"},
			Help: "Requests that are served at once; others wait for their turn. 1: strictly one after the other. 0: no limit."},
		{Name: "service.token", Secret: true, value: text{&c.Service.Token},
			Help: "What HTTP clients must send: Authorization: Bearer TOKEN. Read again on SIGHUP."},
		{Name: "service.token_file", value: secret("service.token"), Help: "File that holds service.token, the bearer token of HTTP."},
		{Name: "service.resp_password", Secret: true, value: text{&c.Service.RESPPassword}, Help: "Password that RESP clients must send with AUTH. Read again on SIGHUP; clients that have logged in stay logged in."},
		{Name: "service.resp_password_file", value: secret("service.resp_password"), Help: "File that holds service.resp_password, the password of RESP."},
		{Name: "service.tls.cert", value: path{text{&c.Service.TLS.Cert}, "file"},
			Help: "File with the certificate chain (PEM): both ports then speak TLS. Read again on SIGHUP."},
		{Name: "service.tls.key", value: path{text{&c.Service.TLS.Key}, "file"}, Help: "File with its key (PEM)."},
		{Name: "service.insecure", Default: "false", Bool: true, value: boolean{&c.Service.Insecure},
			Help: "Serve other interfaces than loopback though a token or password is missing."},
		{Name: "service.deny", Default: "acl,bgrewriteaof,bgsave,cluster,commandlog,config,debug,failover,flushall,latency,migrate,module,monitor,move,pfdebug,pfselftest,psync,replconf,replicaof," +
			"restore-asking,save,shutdown,slaveof,slowlog,swapdb,sync", value: denied{list{&c.Service.Deny}},
			Help: "Commands of RESP that are not passed on to Redis: names (flushall), subcommands (config|set), categories of its ACLs (@scripting). " +
				"none: all are passed on. *: only those are answered that the proxy serves itself."},
		{Name: "service.check_app", Default: "false", Bool: true, value: boolean{&c.Service.CheckApp},
			Help: "Count, while Redis is well, the commands of RESP clients that an outage would refuse: they are on the status page, in /metrics, " +
				"and printed as a table at the end. Nothing is answered otherwise than without it."},
		{Name: "service.kept_answers", Default: "refuse", value: choice{&c.Service.KeptAnswers, []string{"refuse", "local"}},
			Help: "What becomes, while Redis is away, of a RESP command that can be kept (INCR, HSET, SADD, LPUSH, EXPIRE and the like) where its answer does not follow from what the proxy has kept itself. " +
				"refuse: it is refused, and nothing is kept. local: it is kept, and answered by what the proxy knows; the table in \"While Redis is away\" says how."},
		{Name: "service.outage_keys", Default: "refuse", value: choice{&c.Service.OutageKeys, []string{"refuse", "known"}},
			Help: "What becomes, while Redis is away, of RESP commands that list keys: SCAN, KEYS, RANDOMKEY and DBSIZE. refuse: they are refused. " +
				"known: they are answered by the keys that this proxy knows to be there, which may not be all."},
		{Name: "service.outage_collections", Default: "off", value: choice{&c.Service.OutageCollections, []string{"off", "on"}},
			Help: "What becomes of hashes, sets and lists that RESP clients read, as a whole (HGETALL, SMEMBERS, LRANGE 0 -1) or by name (HGET, HMGET, SISMEMBER, SMISMEMBER). on: they are remembered in memory, and reads of them are answered from it while Redis is away. " +
				"off: only what was written through this proxy is known then. Before a Redis Cluster that holds for each shard."},
		{Name: "service.strict_keys", value: list{&c.Service.StrictKeys},
			Help: "Keys, as patterns of KEYS (lock:*), of which nothing is answered from memory and nothing is kept: all is asked of Redis, and refused while that is away. " +
				"For locks, rate limits and what else one proxy must not answer by itself. *: all keys."},
		{Name: "service.pprof", Default: "false", Bool: true, value: boolean{&c.Service.Pprof}, Help: "Serve /debug/pprof/."},
		{Name: "service.request_timeout", Default: "5s", value: duration{&c.Service.RequestTimeout, time.Millisecond, time.Hour, ""},
			Help: "How long a request may take, waiting for its turn included."},
		{Name: "service.idle_timeout", Default: "0", value: duration{&c.Service.IdleTimeout, time.Second, 366 * day, "never"},
			Help: "After how long without a command a RESP connection is closed. 0: never."},
		{Name: "service.drain_timeout", Default: "10s", value: duration{&c.Service.DrainTimeout, time.Millisecond, time.Hour, ""},
			Help: "How long after SIGTERM, and service.drain_delay, running requests may take to end."},
		{Name: "service.drain_delay", Default: "0", value: duration{&c.Service.DrainDelay, time.Millisecond, time.Hour, "none"},
			Help: "How long after SIGTERM new requests are still accepted, while /readyz returns 503, so that a load balancer notices first."},
		{Name: "service.max_requests", Default: "1000", value: number{&c.Service.MaxRequests, 1, math.MaxInt32, "requests"},
			Help: "HTTP requests that are served at once; others wait for service.request_timeout and are answered 503 then."},
		{Name: "service.max_http_connections", Default: "20000", value: number{&c.Service.MaxHTTPConnections, 1, math.MaxInt32, "connections"},
			Help: "HTTP connections at once, and three quarters at most of what the open files of the process allow. A further one takes the place of an idle one; " +
				"if none is idle, it is answered 503 and closed."},
		{Name: "service.max_connections", Default: "20000", value: number{&c.Service.MaxConnections, 1, math.MaxInt32, "connections"},
			Help: "RESP connections at once; a further one gets an error and is closed."},
		{Name: "service.max_key_bytes", Default: "1KiB", value: size{&c.Service.MaxKeyBytes, 1, 1 << 20}, Help: "Longest key."},
		{Name: "service.max_value_bytes", Default: "8MiB", value: size{&c.Service.MaxValueBytes, 1, 512 << 20}, Help: "Longest value."},
		{Name: "service.max_receiving_bytes", Default: "256MiB", value: size{&c.Service.MaxReceiving, 1 << 20, 1 << 50},
			Help: "How many bytes all requests that are being received may hold in sum, RESP and HTTP, beyond 16 KiB each; one that does not fit is refused as busy. " +
				"Never less than twice service.max_value_bytes."},
		{Name: "service.max_keys", Default: "1000", value: number{&c.Service.MaxKeys, 1, 1 << 20, "keys"}, Help: "Keys in one POST /v1/mget."},

		{Name: "fallback.dir", value: path{text{&c.Fallback.Dir}, "directory"},
			Help: "Directory that keeps writes while Redis is away. It belongs to one process at a time. " +
				"By default one for this Redis below $STATE_DIRECTORY, $XDG_STATE_HOME/aside or ~/.local/state/aside; the log says which. " +
				"none: writes while Redis is away are kept in memory only, and answered with an error that says so."},
		{Name: "fallback.sync", Default: "always", value: choice{&c.Fallback.Sync, []string{"always", "everysec", "os"}},
			Help: "When a write while Redis is away is acknowledged. always: when the disk has it. everysec, os: when the operating system has it."},
		{Name: "fallback.max_bytes", Default: "1GiB", value: size{&c.Fallback.MaxBytes, 1 << 20, 1 << 50},
			Help: "How large the directory may become. A write that does not fit is refused."},
		{Name: "fallback.replay_rate", Default: "5000", value: number{&c.Fallback.ReplayRate, 0, math.MaxInt32, "records a second"},
			Help: "How many writes a second are replayed when Redis is back, for each primary. 0: no limit."},
		{Name: "fallback.stamp_ttl", Default: "24h", value: duration{&c.Fallback.StampTTL, time.Minute, 83 * time.Hour, ""},
			Help: "How long Redis remembers the last writer of a key, in some 65 bytes for a key of 20 (longer if its value lives longer). " +
				"A set that waits for Redis for longer is replayed as a delete. All writers to one Redis should have the same."},

		{Name: "log.path", value: path{text{&c.Log.Path}, "file"}, Help: "File for log lines. By default none."},
		{Name: "log.stdout", Default: "true", Bool: true, value: boolean{&c.Log.Stdout}, Help: "Log to standard output, too."},
		{Name: "log.level", Default: "info", value: choice{&c.Log.Level, []string{"debug", "info", "warn", "error"}},
			Help: "The least severe lines that are logged. Read again on SIGHUP."},
		{Name: "log.format", Default: "text", value: choice{&c.Log.Format, []string{"text", "json"}}, Help: "How a log line looks."},
		{Name: "log.max_size", Default: "100MiB", value: size{&c.Log.MaxSize, 1 << 20, 1 << 40},
			Help: "How large the log file becomes before the next is begun; in whole MiB."},
		{Name: "log.max_backups", Default: "5", value: number{&c.Log.MaxBackups, 0, math.MaxInt32, "files"},
			Help: "How many older log files are kept. 0: all."},
	}
	for i := range all {
		s := &all[i]
		s.Group, _, _ = strings.Cut(s.Name, ".")
		s.Type = s.value.Type()
		if of, ok := s.value.(choice); ok {
			s.Choices = of.of
		}
		if of, ok := strings.CutSuffix(s.Name, "_file"); ok && fileOf[of] != nil {
			s.file, s.Type = &secretFile{of: of}, "file"
		}
	}
	return all
}

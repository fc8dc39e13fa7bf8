// Package config is what `aside serve` can be told: in a YAML file, by environment variables and by
// flags; the later one wins. There is one table of settings (settings.go), from which the
// three, their help and their reference in docs/PROXY.md are made.
//
// Load reports all that is wrong at once, each with where it stands and a remedy, and never quotes
// a secret.
package config

import (
	"crypto/sha256"
	"encoding/hex"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Config is what the proxy goes by. Load fills in every field.
type Config struct {
	Redis    Redis
	Cache    Cache
	Service  Service
	Fallback Fallback
	Log      Log
}

// Redis says where Redis is.
type Redis struct {
	URL      string   // as rueidis.ParseURL has it; may hold a password
	Addrs    []string // instead of URL's; empty: URL
	Username string   // instead of URL's
	Password string   // likewise
	TLS      RedisTLS // for a URL that is rediss://
	Timeout  time.Duration
}

// RedisTLS are files: the authorities that may have signed Redis's certificate ("": those that this
// machine trusts), and what is shown to Redis.
type RedisTLS struct {
	CA string
	TLS
}

// Cache is the local memory.
type Cache struct {
	Capacity int           // keys
	Expiry   time.Duration // 0: until Redis's push says so
	MaxBytes int64

	DegradedTTL time.Duration // 0: until the key expires
	KeepWritten bool

	Grace time.Duration // 0: none
}

// Service is what is served, and to whom.
type Service struct {
	Bind               string
	Port               Port
	RESPPort           Port
	Concurrency        int // 0: no limit
	Token              string
	RESPPassword       string
	TLS                TLS
	Insecure           bool
	Deny               []string // as upstream.NewDeny has it
	CheckApp           bool
	KeptAnswers        string // refuse, local
	OutageKeys         string // refuse, known
	OutageCollections  string // off, on
	StrictKeys         []string
	Pprof              bool
	RequestTimeout     time.Duration
	IdleTimeout        time.Duration // 0: none
	DrainTimeout       time.Duration
	DrainDelay         time.Duration
	MaxRequests        int // HTTP
	MaxConnections     int // RESP
	MaxHTTPConnections int
	MaxKeyBytes        int64
	MaxValueBytes      int64
	MaxReceiving       int64
	MaxKeys            int
}

// TLS are the files that make it TLS. Both or neither.
type TLS struct{ Cert, Key string }

// Fallback is the directory that keeps what is written while Redis is away.
type Fallback struct {
	Dir      string // "": the default of this user and this Redis, see StateDir; "none": no directory
	Sync     string // always, everysec, os
	MaxBytes int64

	ReplayRate int // 0: no limit
	StampTTL   time.Duration
}

// Log says where log lines go.
type Log struct {
	Path       string // "": no file
	Stdout     bool
	Level      string // debug, info, warn, error
	Format     string // text, json
	MaxSize    int64  // bytes; whole MiB
	MaxBackups int
}

// Port is a TCP port: 0 is a free one, Off none.
type Port int

// Off says that a port is not served.
const Off Port = -1

// NoDir is the fallback.dir that is no directory.
const NoDir = "none"

// StateDir is the fallback directory of those who name none: below the state directory of systemd's
// service or of the user, and one for each Redis, as what waits for one Redis must never be
// replayed into another. where names that Redis: its addresses and database. "" if the user has no
// home.
func StateDir(getenv func(string) string, where string) string {
	base := getenv("STATE_DIRECTORY") // of systemd; a list with colons if there are several
	base, _, _ = strings.Cut(base, ":")
	if base == "" {
		if base = getenv("XDG_STATE_HOME"); filepath.IsAbs(base) {
			base = filepath.Join(base, "aside")
		} else if base = getenv("LOCALAPPDATA"); base != "" { // Windows
			base = filepath.Join(base, "aside")
		} else if home := getenv("HOME"); filepath.IsAbs(home) {
			base = filepath.Join(home, ".local", "state", "aside")
		} else {
			return ""
		}
	}
	return filepath.Join(base, folderName(where))
}

// folderName makes a name for a folder from anything: readable, and different for what is
// different.
func folderName(where string) string {
	name := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, where)
	if len(name) > 40 {
		name = name[:40]
	}
	sum := sha256.Sum256([]byte(where))
	return name + "-" + hex.EncodeToString(sum[:4])
}

// Changed names the settings in which a and b differ, sorted.
func Changed(a, b Config) []string {
	var names []string
	other := b.settings()
	for i, s := range a.settings() {
		if !s.isFile() && s.value.String() != other[i].value.String() {
			names = append(names, s.Name)
		}
	}
	slices.Sort(names)
	return names
}

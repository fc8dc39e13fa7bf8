package config

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// check looks at what no setting can tell by itself.
func (l *loader) check(c *Config) {
	// at is where the first of these settings that was set stands.
	at := func(names ...string) (o origin) {
		for _, name := range names {
			if o, ok := l.set[name]; ok {
				return o
			}
		}
		return origin{layer: layerDefault}
	}
	l.checkRedis(c, at)
	s := &c.Service
	portsKnown := !l.failed["service.port"] && !l.failed["service.resp_port"]
	if portsKnown && s.Port > 0 && s.Port == s.RESPPort {
		l.bad(at("service.resp_port", "service.port"), fmt.Sprintf("service.port and service.resp_port are both %d", s.Port), "give each a port of its own, or switch one off")
	}
	if portsKnown && s.Port == Off && s.RESPPort == Off {
		l.bad(at("service.resp_port", "service.port"), "service.port and service.resp_port are both off", "serve at least one of them")
	}
	l.checkPair("service", s.TLS.Cert, s.TLS.Key, at)
	l.checkBind(c, at)
	if c.Log.MaxSize%(1<<20) != 0 {
		l.bad(at("log.max_size"), fmt.Sprintf("log.max_size is %q", formatSize(c.Log.MaxSize)), "must be whole MiB, such as 100MiB")
	}
}

// checkPair is for the certificate and key of a section.
func (l *loader) checkPair(section, cert, key string, at func(...string) origin) {
	certName, keyName := section+".tls.cert", section+".tls.key"
	switch {
	case cert != "" && key == "":
		l.bad(at(certName), certName+" is set and "+keyName+" is not", "name the certificate's key, too")
	case cert == "" && key != "":
		l.bad(at(keyName), keyName+" is set and "+certName+" is not", "name the key's certificate, too")
	case cert != "":
		if _, err := tls.LoadX509KeyPair(cert, key); err != nil {
			l.bad(at(certName), fmt.Sprintf("%s is %q, %s %q", certName, cert, keyName, key),
				fmt.Sprintf("they cannot be used (%v): name a certificate chain and its key, both PEM", err))
		}
	}
}

func (l *loader) checkRedis(c *Config, at func(...string) origin) {
	for _, address := range c.Redis.Addrs {
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			l.bad(at("redis.addrs"), fmt.Sprintf("redis.addrs has %q", address), "each address must be host:port; an IPv6 address stands in brackets, as in [::1]:6379")
		}
	}
	files := c.Redis.TLS
	l.checkPair("redis", files.Cert, files.Key, at)
	if files.CA != "" {
		if _, err := Authorities(files.CA); err != nil {
			l.bad(at("redis.tls.ca"), fmt.Sprintf("redis.tls.ca is %q", files.CA), fmt.Sprintf("it cannot be used (%v): name a file of certificates, PEM", err))
		}
	}
	scheme, _, _ := strings.Cut(strings.ToLower(c.Redis.URL), "://")
	if files != (RedisTLS{}) && scheme != "rediss" && scheme != "valkeys" {
		l.bad(at("redis.tls.ca", "redis.tls.cert", "redis.tls.key"), "redis.tls is set, and redis.url is not for TLS", "let the url begin with rediss://, or leave redis.tls out")
	}
	if l.from.ParseURL == nil {
		return
	}
	if err := l.from.ParseURL(c.Redis.URL); err != nil {
		l.bad(at("redis.url"), l.byName["redis.url"].shown(c.Redis.URL),
			fmt.Sprintf("%v: must be like redis://127.0.0.1:6379/0, rediss://user:password@host:6380 or unix:///run/redis.sock", err))
	}
}

// Authorities reads the certificates of a file.
func Authorities(path string) (*x509.CertPool, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(content) {
		return nil, errors.New("there is no certificate in it")
	}
	return pool, nil
}

// checkBind refuses to serve strangers that need not authenticate.
func (l *loader) checkBind(c *Config, at func(...string) origin) {
	s := &c.Service
	if s.Bind == "" {
		l.bad(at("service.bind"), `service.bind is ""`, "name the address of an interface; 0.0.0.0 or :: for all of them")
		return
	}
	if s.Bind != "localhost" {
		if _, err := netip.ParseAddr(s.Bind); err != nil {
			l.bad(at("service.bind"), fmt.Sprintf("service.bind is %q", s.Bind), "must be the IP address of an interface, such as 127.0.0.1, or localhost; the port is a setting of its own")
			return
		}
	}
	if Loopback(s.Bind) || s.Insecure {
		return
	}
	var missing []string
	if s.Port != Off && s.Token == "" && !l.failed["service.token"] {
		missing = append(missing, "service.token_file")
	}
	if s.RESPPort != Off && s.RESPPassword == "" && !l.failed["service.resp_password"] {
		missing = append(missing, "service.resp_password_file")
	}
	if len(missing) > 0 {
		l.bad(at("service.bind"), fmt.Sprintf("service.bind is %q, which others can reach, without %s", s.Bind, strings.Join(missing, " and ")),
			"set what is missing, or bind to 127.0.0.1, or say --insecure if something else keeps strangers out")
	}
}

// Loopback reports whether only this machine reaches an address.
func Loopback(bind string) bool {
	addr, err := netip.ParseAddr(bind)
	return bind == "localhost" || err == nil && addr.Unmap().IsLoopback()
}

// nearest is the name that somebody may have meant, or "".
func nearest(name string, names []string) string {
	best, at := "", len(name)/4+1 // more letters may be wrong in a longer name
	for _, n := range names {
		if d := distance(name, n); d <= at && (best == "" || d < at) {
			best, at = n, d
		}
	}
	return best
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = slices.Min([]int{cost, row[j] + 1, row[j+1] + 1})
		}
	}
	return row[len(b)]
}

package main

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// redisFlags say where Redis is, for the operator's commands.
type redisFlags struct {
	URL string `name:"redis" required:"" env:"ASIDE_REDIS_URL" placeholder:"URL" help:"Redis: redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path; ?addr=host:port for further nodes, ?master_set=NAME for Sentinel."`
	redisSecrets
}

// redisSecrets say what Redis believes, and whom we believe.
type redisSecrets struct {
	PasswordFile string `name:"redis-password-file" env:"ASIDE_REDIS_PASSWORD_FILE" placeholder:"FILE" help:"File that holds the password, instead of the url's."`
	CA           string `name:"redis-tls-ca" env:"ASIDE_REDIS_TLS_CA" placeholder:"FILE" help:"File with the authorities (PEM) that may have signed Redis's certificate, instead of those that this machine trusts."`
	Cert         string `name:"redis-tls-cert" env:"ASIDE_REDIS_TLS_CERT" placeholder:"FILE" help:"File with the certificate chain (PEM) that is shown to Redis."`
	Key          string `name:"redis-tls-key" env:"ASIDE_REDIS_TLS_KEY" placeholder:"FILE" help:"File with its key (PEM)."`
}

func (f redisFlags) option() (rueidis.ClientOption, error) {
	option, err := parseURL(f.URL)
	if err != nil {
		return option, usageError{fmt.Errorf("--redis: %w: must be like redis://127.0.0.1:6379/0", err)}
	}
	if f.PasswordFile != "" {
		secret, err := os.ReadFile(f.PasswordFile)
		if err != nil {
			return option, usageError{fmt.Errorf("--redis-password-file: %w: name a file that this user may read", err)}
		}
		option.Password = strings.TrimRight(string(secret), "\r\n")
	}
	err = f.tls(&option)
	return option, err
}

func (f redisFlags) tls(option *rueidis.ClientOption) error {
	if option.TLSConfig == nil {
		if f.CA+f.Cert+f.Key != "" {
			return usageError{errors.New("--redis-tls-ca, --redis-tls-cert and --redis-tls-key are for TLS: let the url begin with rediss://, or leave them out")}
		}
		return nil
	}
	if (f.Cert == "") != (f.Key == "") {
		return usageError{errors.New("--redis-tls-cert and --redis-tls-key belong together: name both files, or neither")}
	}
	if err := trust(option, f.CA); err != nil {
		return usageError{fmt.Errorf("--redis-tls-ca: %w: name a file of certificates, PEM", err)}
	}
	if f.Cert == "" {
		return nil
	}
	cert := new(certificate)
	if err := cert.load(f.Cert, f.Key); err != nil {
		return usageError{fmt.Errorf("--redis-tls-cert is %q, --redis-tls-key %q: %w: name a certificate chain and its key, both PEM", f.Cert, f.Key, err)}
	}
	cert.show(option)
	return nil
}

// trust lets the authorities in a file, if there is one, be those that may have signed Redis's
// certificate.
func trust(option *rueidis.ClientOption, ca string) (err error) {
	if ca == "" {
		return nil
	}
	option.TLSConfig.RootCAs, err = config.Authorities(ca)
	return err
}

// parseURL is rueidis.ParseURL whose errors never hold the url, which may hold a password.
func parseURL(text string) (rueidis.ClientOption, error) {
	option, err := rueidis.ParseURL(text)
	var u *url.Error
	switch {
	case errors.As(err, &u):
		var port url.EscapeError // of the few that quote; what they quote may be of the password
		if errors.As(u.Err, &port) || strings.Contains(text, "@") {
			return option, errors.New("it is no url; in user and password, percent-encode what is no letter or digit")
		}
		return option, u.Err
	case err != nil:
		return option, errors.New(strings.TrimPrefix(err.Error(), "redis: "))
	case option.SelectDB < 0:
		return option, errors.New("the number of a database cannot be negative")
	}
	if option.Sentinel.MasterSet != "" && option.TLSConfig != nil {
		// The addresses are those of Sentinels, so what is said of TLS is said of them, too; and
		// each server has a name of its own.
		option.TLSConfig.ServerName = ""
		option.Sentinel.TLSConfig = option.TLSConfig
	}
	return option, nil
}

// redisOption is how the proxy connects.
func redisOption(c config.Redis) (rueidis.ClientOption, error) {
	option, err := parseURL(c.URL)
	if err != nil {
		return option, err
	}
	if len(c.Addrs) > 0 {
		option.InitAddress = slices.Clone(c.Addrs)
		option.DialCtxFn = nil // of a unix:// url
	}
	if c.Username != "" {
		option.Username = c.Username
	}
	if c.Password != "" {
		option.Password = c.Password
	}
	if c.TLS.CA != "" {
		err = trust(&option, c.TLS.CA)
	}
	return option, err
}

// redisName names a Redis without its secrets: its addresses, Sentinel's set and the database.
func redisName(option rueidis.ClientOption) string {
	addrs := slices.Clone(option.InitAddress)
	slices.Sort(addrs)
	name := strings.Join(addrs, ",")
	if option.Sentinel.MasterSet != "" {
		name += "/" + option.Sentinel.MasterSet
	}
	if option.SelectDB != 0 {
		name += "/" + strconv.Itoa(option.SelectDB)
	}
	return name
}

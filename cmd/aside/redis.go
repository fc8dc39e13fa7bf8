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

	"github.com/redaside/aside/internal/proxy/config"
)

// redisFlags say where Redis is, for the operator's commands.
type redisFlags struct {
	URL          string `name:"redis" required:"" env:"ASIDE_REDIS_URL" placeholder:"URL" help:"Redis: redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path; ?addr=host:port for further nodes, ?master_set=NAME for Sentinel."`
	PasswordFile string `name:"redis-password-file" env:"ASIDE_REDIS_PASSWORD_FILE" placeholder:"FILE" help:"File that holds the password, instead of the url's."`
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
	return option, nil
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
	return option, nil
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

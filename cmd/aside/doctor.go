package main

import (
	"errors"
	"time"
)

type doctorCmd struct {
	URL string `name:"redis" default:"redis://127.0.0.1:6379" env:"ASIDE_REDIS_URL" help:"Redis: redis://[user:password@]host[:port][/db], rediss:// for TLS, unix:///path; ?addr=host:port for further nodes, ?master_set=NAME for Sentinel."`
	redisSecrets

	Dir     string        `name:"dir" placeholder:"DIR" help:"Also look at this fallback directory, and at the disk that it is on."`
	Prefix  string        `name:"prefix" placeholder:"TEXT" help:"What keys begin with that this user may write (ACL), such as app:. By default nothing."`
	Timeout time.Duration `name:"timeout" default:"3s" help:"How long each check may take."`
	JSON    bool          `name:"json" help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*doctorCmd) Help() string {
	return "It writes a key of its own, PREFIX and \"aside:doctor:\" and some letters, and deletes it. In DIR it writes a file and removes it. " +
		"Exit code 1: a check ended in an error."
}

// verdict is how a check ended.
type verdict string

const (
	fine    verdict = "ok"
	warning verdict = "warning"
	failure verdict = "error"
)

// check is one thing that was looked at.
type check struct {
	Name    string  `json:"check"`
	Verdict verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Remedy  string  `json:"remedy,omitempty"`
}

func (c *doctorCmd) Run(e *env) error {
	if c.Timeout <= 0 {
		return usageError{errors.New("--timeout must be a positive duration, such as 3s")}
	}
	option, err := redisFlags{c.URL, c.redisSecrets}.option()
	if err != nil {
		return err
	}
	d := &doctor{ctx: e.ctx, option: option, prefix: c.Prefix, timeout: c.Timeout}
	d.redis()
	if c.Dir != "" {
		d.directory(c.Dir)
	}
	errs, warnings := 0, 0
	for _, check := range d.checks {
		switch check.Verdict {
		case failure:
			errs++
		case warning:
			warnings++
		case fine:
		}
	}
	if c.JSON {
		if err := e.printJSON(map[string]any{"ok": errs == 0, "errors": errs, "warnings": warnings, "checks": d.checks}); err != nil {
			return err
		}
	} else {
		for _, check := range d.checks {
			e.printf("%-8s %-18s %s\n", check.Verdict, check.Name, check.Detail)
			if check.Remedy != "" {
				e.printf("%-27s → %s\n", "", check.Remedy)
			}
		}
		e.printf("\n%s, %s\n", count(errs, "error"), count(warnings, "warning"))
	}
	if errs > 0 {
		return errFound
	}
	return nil
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/fallback"
)

type serveCmd struct {
	Config   string       `name:"config" short:"c" placeholder:"FILE" env:"ASIDE_CONFIG" help:"Configuration file. By default conf.yaml in this directory, if it is there."`
	Settings kong.Plugins `embed:""`

	flags settingFlags
}

// Help implements kong.HelpProvider.
func (*serveCmd) Help() string {
	return "What is set by a flag holds, else what its environment variable (in brackets) says, else what the configuration file says. " +
		"Secrets have no flags, as every user of the machine could read them there: name a file that holds them, or use the environment.\n\n" +
		"SIGTERM and SIGINT drain: /readyz says 503, requests under way end, what was accepted is made durable; a second one does not wait. " +
		"SIGHUP reads log.level, certificates, service.token, service.resp_password, redis.username and redis.password again, and opens the log file by its name."
}

func (s *serveCmd) load() (c config.Config, warnings []string, err error) {
	return loadConfig(s.Config, s.flags.values())
}

func loadConfig(file string, flags map[string]string) (config.Config, []string, error) {
	return config.Load(config.Sources{File: file, Environ: os.Environ(), Flags: flags, ParseURL: func(url string) error {
		_, err := parseURL(url)
		return err
	}})
}

func (s *serveCmd) Run(e *env) error {
	// The reader of our output may end, or empty the file: that is no reason to end, or to leave a
	// hole.
	signal.Ignore(syscall.SIGPIPE)
	for _, w := range []io.Writer{e.stdout, e.stderr} {
		if file, ok := w.(*os.File); ok {
			appendTo(file)
		}
	}
	c, warnings, err := s.load()
	if err != nil {
		return err
	}
	if os.Getenv("GOGC") == "" {
		tuneGC(100)
	}
	logs, err := openLogs(c.Log, e.stdout)
	if err != nil {
		return err
	}
	defer logs.Close()
	// Before anything is served: a signal that is sent as soon as there is an answer must not kill
	// us.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP)
	defer signal.Stop(signals)

	p, err := newProxy(c, logs.logger)
	if err != nil {
		return err
	}
	if c.Log.Format == "text" || !c.Log.Stdout { // a line that is not JSON would break a program that reads the others
		var greeting bytes.Buffer
		p.greet(&greeting)
		logs.stdout.queue.Put(greeting.Bytes())
	}
	for _, w := range warnings {
		logs.logger.Warn("aside: " + w)
	}
	service := newManager(os.Getenv, logs.logger)
	defer service.close()
	failed, err := p.start()
	if err != nil {
		return err
	}
	endNotices := p.notify(service)
	stop := func(ctx context.Context) error {
		endNotices()
		defer p.tellChecked(func(table []byte) { logs.stdout.queue.Put(table) })
		service.stopping(c.Service.DrainDelay + c.Service.DrainTimeout + closingTakes)
		return p.stop(ctx)
	}
	if dir := p.options.FallbackDir; dir != "" {
		if w := config.WarnOfDirectory(dir); w != "" {
			logs.logger.Warn("aside: " + w)
		}
	}
	if c.Fallback.Dir == "" {
		for _, dir := range leftBehind(p.options.FallbackDir) {
			logs.logger.Warn("aside: writes wait in the directory of another Redis; if it is this one by another name, bring them there: "+
				"aside replay DIR --redis URL", "dir", dir)
		}
	}
	for {
		select {
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				s.reload(c, p, logs)
				continue
			}
			logs.logger.Info("aside: draining", "signal", sig.String(), "timeout", c.Service.DrainDelay+c.Service.DrainTimeout)
			ctx, cancel := context.WithCancel(e.ctx)
			defer cancel() //nolint:revive // the loop ends here
			go func() {    // ends with ctx
				for {
					select {
					case again := <-signals:
						if again != syscall.SIGHUP {
							cancel()
						}
					case <-ctx.Done():
						return
					}
				}
			}()
			return stop(ctx)
		case err := <-failed: // a listener is gone: half a proxy is worse than one that is started again
			return errors.Join(err, stop(e.ctx))
		case <-e.ctx.Done():
			return stop(context.WithoutCancel(e.ctx))
		}
	}
}

var errWaits = errors.New("something waits")

// leftBehind are the directories beside dir in which something waits, and which no running process
// has: changing localhost to 127.0.0.1 in redis.url gets another directory by default.
func leftBehind(dir string) (dirs []string) {
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil {
		return nil // it is a service, no promise
	}
	for _, e := range entries {
		other := filepath.Join(filepath.Dir(dir), e.Name())
		if other == dir || !e.IsDir() {
			continue
		}
		found, err := ops.Read(other, func(r ops.Record) error {
			if r.Op != fallback.OpFill {
				return errWaits
			}
			return nil
		})
		if errors.Is(err, errWaits) && (!found.Running || found.Holder == os.Getpid()) /* of another container, whose process had our id */ {
			dirs = append(dirs, other)
		}
	}
	return dirs
}

// reload does what can be done without a restart, and says what cannot.
func (s *serveCmd) reload(was config.Config, p *proxyServer, logs *logs) {
	log := logs.logger
	logs.reopen()
	c, warnings, err := s.load()
	if problems, bad := errors.AsType[config.Problems](err); bad {
		for _, problem := range problems {
			log.Error("aside: the configuration was not read again: " + problem.String())
		}
		return
	}
	for _, w := range warnings {
		log.Warn("aside: " + w)
	}
	logs.level.Set(logLevel(c.Log.Level))
	for _, r := range []struct {
		cert      *certificate
		was, file config.TLS
	}{
		{p.cert, was.Service.TLS, c.Service.TLS},
		{p.shown, was.Redis.TLS.TLS, c.Redis.TLS.TLS},
	} {
		if r.cert != nil && r.file == r.was {
			if err := r.cert.load(r.file.Cert, r.file.Key); err != nil {
				log.Error("aside: the certificate was not read again, the old one stays", "file", r.file.Cert, "error", err)
			}
		}
	}
	done := append(p.renew(c), "log.level")
	later := slices.DeleteFunc(config.Changed(was, c), func(name string) bool { return slices.Contains(done, name) })
	log.Info("aside: the configuration was read again", "logLevel", c.Log.Level)
	if len(later) > 0 {
		log.Warn("aside: some settings have changed that need a restart", "settings", strings.Join(later, ", "))
	}
}

// fallbackDir is the directory that is meant; "" for none.
func fallbackDir(c config.Config, where string, log *slog.Logger) (string, error) {
	switch dir := c.Fallback.Dir; dir {
	case config.NoDir:
		log.Warn("aside: there is no fallback directory: what is written while Redis is away is kept in memory only, and answered with an error")
		return "", nil
	case "":
		dir = config.StateDir(os.Getenv, where)
		if dir == "" {
			return "", usageError{fmt.Errorf("fallback.dir is not set, and this user has no home to keep it in: "+
				"name a directory that outlives the process with --fallback-dir, or say --fallback-dir %s", config.NoDir)}
		}
		return dir, nil
	default:
		return dir, nil
	}
}

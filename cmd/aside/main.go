// Aside is a caching proxy in front of Redis that keeps working when Redis does not, and the tools
// to look after it:
//
//	aside serve                          HTTP at 127.0.0.1:9997, RESP at 127.0.0.1:9998
//	aside inspect DIR [KEY]              what waits in a fallback directory
//	aside verify DIR                     whether all of it can be read
//	aside replay DIR --redis URL         bring it into Redis
//	aside export DIR                     write it as an append-only file
//	aside doctor                         whether a Redis, and a directory, are as aside needs them
//	aside explain KEY                    what a running proxy, or a directory, knows of a key
//	aside drill                          a share of the keys is answered as in an outage, for a minute
//
// Exit codes: 0 it went well; 1 it failed, or something was found; 2 the command line or the
// configuration is wrong. docs/PROXY.md has the rest.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// The exit codes.
const (
	exitOK     = 0
	exitFailed = 1 // or found something
	exitUsage  = 2 // of the command line or the configuration
)

// errFound says that a command has found something, and has said what.
var errFound = errors.New("something was found")

// usageError is a mistake in the command line.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func main() { os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) }

// env is what a command needs of the world.
type env struct {
	ctx            context.Context //nolint:containedctx // of one command, which is one call
	stdout, stderr io.Writer
	model          *kong.Application
}

func (e *env) printf(format string, args ...any) { fmt.Fprintf(e.stdout, format, args...) }

// printJSON prints v for other programs, and for people who look at what they get.
func (e *env) printJSON(v any) error {
	encoder := json.NewEncoder(e.stdout)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(v)
}

type cli struct {
	Serve       serveCmd       `cmd:"" help:"Serve HTTP and RESP, in front of Redis and, while that is away, in its place."`
	Inspect     inspectCmd     `cmd:"" help:"Show what waits for Redis in a fallback directory."`
	Verify      verifyCmd      `cmd:"" help:"Check that all of a fallback directory can be read."`
	Replay      replayCmd      `cmd:"" help:"Bring what waits in a fallback directory into Redis."`
	Export      exportCmd      `cmd:"" help:"Write what waits in a fallback directory as a plain append-only file of Redis."`
	Doctor      doctorCmd      `cmd:"" help:"Check that a Redis, and a directory, are as aside needs them."`
	Explain     explainCmd     `cmd:"" help:"Tell what is known of a key: in a running proxy and in Redis, or in a fallback directory."`
	Drill       drillCmd       `cmd:"" help:"Have a running proxy answer a share of the keys as if Redis were away."`
	Healthcheck healthcheckCmd `cmd:"" help:"Ask a running proxy for its health; for containers, which have no curl."`
	Completion  completionCmd  `cmd:"" help:"Print a completion script for a shell."`
	Version     versionCmd     `cmd:"" help:"Print the version."`

	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

const description = "A caching proxy in front of Redis that keeps working when Redis does not, and the tools to look after it.\n\n" +
	"Exit codes: 0 it went well; 1 it failed, or something was found; 2 the command line or the configuration is wrong."

// exited is how kong ends after --help.
type exited int

func newParser(c *cli, stdout, stderr io.Writer) *kong.Kong {
	c.Serve.Settings = kong.Plugins{c.Serve.flags.target()}
	return kong.Must(c, kong.Name("aside"), kong.Description(description), kong.Writers(stdout, stderr), kong.Vars{"version": versionLine()},
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "redis", Title: "Redis:"}, {Key: "cache", Title: "Local memory:"}, {Key: "service", Title: "What is served:"},
			{Key: "fallback", Title: "While Redis is away:"}, {Key: "log", Title: "Log:"},
		}))
}

// run is main, for tests, too.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int) {
	out := &output{w: stdout}
	defer func() {
		if p := recover(); p != nil {
			e, ok := p.(exited)
			if !ok {
				panic(p)
			}
			code = max(int(e), exitCode(out.check(nil), stderr))
		}
	}()
	var c cli
	parser := newParser(&c, out, stderr)
	if len(args) == 0 {
		args = []string{"--help"}
	}
	parsed, err := parser.Parse(args)
	if out.failed != nil { // of --help
		return exitCode(out.check(nil), stderr)
	}
	if err != nil {
		command := "aside"
		var p *kong.ParseError
		if errors.As(err, &p) && p.Context.Selected() != nil {
			command = p.Context.Selected().FullPath()
		}
		fmt.Fprintf(stderr, "aside: %v: see %s --help\n", err, command)
		return exitUsage
	}
	if parsed.Command() == "serve" { // whose output is a log, and holds nothing up
		return exitCode(parsed.Run(&env{ctx: ctx, stdout: stdout, stderr: stderr, model: parser.Model}), lastWords{stderr})
	}
	err = parsed.Run(&env{ctx: ctx, stdout: out, stderr: stderr, model: parser.Model})
	return exitCode(out.check(err), stderr)
}

func exitCode(err error, stderr io.Writer) int {
	problems, misconfigured := errors.AsType[config.Problems](err)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFound):
		return exitFailed
	case misconfigured:
		fmt.Fprintf(stderr, "aside: the configuration has %s:\n", count(len(problems), "problem"))
		for _, p := range problems {
			fmt.Fprintf(stderr, "  %s\n", p)
		}
		return exitUsage
	}
	fmt.Fprintf(stderr, "aside: %s\n", plainLines(strings.TrimPrefix(err.Error(), "aside: ")))
	if _, usage := errors.AsType[usageError](err); usage {
		return exitUsage
	}
	return exitFailed
}

type versionCmd struct{}

func (versionCmd) Run(e *env) error {
	e.printf("%s\n", versionLine())
	return nil
}

func versionLine() string {
	return fmt.Sprintf("aside %s (%s, %s/%s)", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// stamped is set by the linker where a release is built: -X main.stamped=v1.2.3.
var stamped string

// version is that of the release, else of the module or of the commit that it was built from.
func version() string {
	if stamped != "" {
		return stamped
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	revision, modified := "", ""
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			revision = s.Value[:min(12, len(s.Value))]
		case "vcs.modified":
			if s.Value == "true" {
				modified = "+changes"
			}
		}
	}
	if revision == "" {
		return "unreleased"
	}
	return revision + modified
}

// count is "1 key", "2 keys".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

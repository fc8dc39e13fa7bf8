package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/redis/rueidis"
	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"

	"github.com/redaside/aside"
	"github.com/redaside/aside/cmd/aside/internal/ops"
	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
	"github.com/redaside/aside/fallback"
	"github.com/redaside/aside/internal/stamp"
)

type replayCmd struct {
	Dir    string `arg:"" help:"The fallback directory. No proxy or service may be using it: those replay by themselves."`
	DryRun bool   `name:"dry-run" help:"Only print what would be replayed, and how many records Redis has newer writes for. Takes no lock and writes nothing."`

	redisFlags

	Rate     int            `name:"rate" default:"5000" help:"Records a second, for each primary. 0: no limit."`
	StampTTL *time.Duration `name:"stamp-ttl" env:"ASIDE_FALLBACK_STAMP_TTL" placeholder:"DURATION" help:"How long the stamps of all writers to this Redis live: fallback.stamp_ttl of proxies (24h), StampTTL of services (1h), the least of them. An older set is replayed as a delete."`

	Wait time.Duration `name:"wait" default:"10s" help:"How long to wait for Redis, at the beginning and when it goes away meanwhile."`
}

// Help implements kong.HelpProvider.
func (*replayCmd) Help() string {
	return "Newer values in Redis are not overwritten. A set that has expired, or is older than the stamps in Redis, becomes a delete. " +
		"It may be interrupted and run again; at the end the directory holds nothing but its lock. " +
		"Exit code 1: Redis cannot be reached, another process has the directory, records are left, or an acknowledged write may be missing because it could not be read or is in quarantine."
}

func (c *replayCmd) Run(e *env) error {
	if c.Rate < 0 {
		return usageError{fmt.Errorf("--rate is %d: must be a number of records a second, or 0 for no limit", c.Rate)}
	}
	if c.Wait <= 0 {
		return usageError{fmt.Errorf("--wait is %v: must be a positive duration, such as 10s", c.Wait)}
	}
	if c.StampTTL != nil && *c.StampTTL <= 0 {
		return usageError{fmt.Errorf("--stamp-ttl is %v: must be a positive duration, such as 24h", *c.StampTTL)}
	}
	option, err := c.option()
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(e.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	now := time.Now()
	var sum, elsewhere ops.Summary
	old := 0 // sets that nobody can order any more
	others := map[int]int{}
	found, err := ops.Read(c.Dir, func(r ops.Record) error { // also so that a mistyped name is not made a directory
		if r.DB == option.SelectDB {
			sum.Add(&r, now)
			if r.Op == fallback.OpSet && !r.Expired(now) && now.Sub(r.Written()) > c.stampTTL() {
				old++
			}
		} else {
			elsewhere.Add(&r, now)
			others[r.DB]++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(found.Problems) > 0 {
		fmt.Fprintf(e.stderr, "aside: %s in this directory: see aside verify %s\n", count(len(found.Problems), "problem"), c.Dir)
	}
	for db, n := range others {
		fmt.Fprintf(e.stderr, "aside: %s of database %d: run this with that database in --redis, too (…/%d)\n", count(n, "record"), db, db)
	}
	switch {
	case c.DryRun:
		if err := c.dryRun(ctx, e, option, &sum, old); err != nil {
			return err
		}
		return missing(e.stderr, c.Dir, &found)
	case sum.Pending() == 0:
		e.printf("nothing waits for database %d\n", option.SelectDB)
		if found.Files+found.Unfinished+found.Parts > 0 {
			if err := c.tidy(ctx, option.SelectDB, 0); err != nil && !errors.Is(err, fallback.ErrLocked) { // the process that has it does it
				return err
			}
		}
	case old > 0 && c.StampTTL == nil:
		return fmt.Errorf("%s set more than %v ago, which is how long the stamps of services live; replayed now they would become deletes. "+
			"Nothing was replayed. If the stamps of all writers to this Redis live longer (proxies: fallback.stamp_ttl), say so: --stamp-ttl 24h. "+
			"Otherwise say --stamp-ttl %v, and they become deletes", was(old, "record"), defaultStampTTL, defaultStampTTL)
	default:
		replayed := c.replay(ctx, e, option, &sum)
		if replayed != nil && !errors.Is(replayed, errFound) {
			return replayed
		}
		return cmp.Or(missing(e.stderr, c.Dir, &found), replayed, elsewhereToo(&elsewhere))
	}
	return cmp.Or(missing(e.stderr, c.Dir, &found), elsewhereToo(&elsewhere))
}

// elsewhereToo is errFound if something waits for another database.
func elsewhereToo(elsewhere *ops.Summary) error {
	if elsewhere.Pending() > 0 {
		return errFound
	}
	return nil
}

// tidy removes the files of records that Redis has answered for, which an earlier run left because
// it was killed or had no time; and loaded values, which may be out of date.
//
// A client whose Close had no time for it keeps the directory until its disk is done. For that tidy
// has patience.
func (c *replayCmd) tidy(ctx context.Context, db int, patience time.Duration) error {
	var dir *fallback.Dir
	for end := time.Now().Add(patience); ; {
		var err error
		if dir, err = fallback.Open(c.Dir, fallback.Options{DB: db, Logger: slog.New(slog.DiscardHandler)}); err == nil {
			break
		}
		if !errors.Is(err, fallback.ErrLocked) || time.Now().After(end) || ctx.Err() != nil {
			return err
		}
		time.Sleep(tidyPause)
	}
	dir.Settle(slices.Collect(dir.Records(fallback.OpFill))...)
	return dir.Close(ctx)
}

const (
	tidyPatience = 30 * time.Second // with a disk that is not done
	tidyPause    = 10 * time.Millisecond
)

// defaultStampTTL is the library's, in the form in which one writes it: the proxy's is longer, but
// others may write there, too.
const defaultStampTTL = "1h"

func (c *replayCmd) stampTTL() time.Duration {
	if c.StampTTL != nil {
		return *c.StampTTL
	}
	return time.Hour
}

func was(n int, what string) string {
	if n == 1 {
		return count(n, what) + " was"
	}
	return count(n, what) + " were"
}

// replay has a client do it, and watches.
func (c *replayCmd) replay(ctx context.Context, e *env, option rueidis.ClientOption, sum *ops.Summary) error {
	var mu sync.Mutex
	var total fallback.ReplayReport              // of all passes that have ended; guarded by mu
	latest := map[string]fallback.ReplayReport{} // of the latest pass of each shard; likewise
	log := &warnings{}
	client, err := aside.New(aside.Options{
		Redis: option, StampTTL: c.stampTTL(), FallbackDir: c.Dir, RequireRedis: true, ConnectTimeout: c.Wait, ReplayRate: orNever(c.Rate), MemoryBytes: -1,
		Logger: slog.New(log),
		OnReplay: func(r aside.Replay) {
			if !r.Running {
				mu.Lock()
				defer mu.Unlock()
				add(&total, r.Report, latest[r.Shard])
				latest[r.Shard] = r.Report
			}
		},
	})
	switch remedy := refusalRemedy(err); {
	case remedy != "":
		return fmt.Errorf("%s takes no writes, nothing was replayed: %s: %w", redisName(option), remedy, err)
	case errors.Is(err, aside.ErrRedisAway):
		return fmt.Errorf("%s does not answer within --wait (%v), nothing was replayed: %w", redisName(option), c.Wait, err)
	case errors.Is(err, fallback.ErrLocked):
		return fmt.Errorf("%w; it replays by itself when Redis is back", err)
	case err != nil:
		return err
	}
	all := sum.Pending() + sum.Fills
	bar := newProgress(e.stderr, all)
	outcome := c.watch(ctx, client, all, bar)
	left := client.Stats().Pending
	bar.end(all - client.Health().Fallback.Fills - left)
	closed := client.Close() // waits for what OnReplay is told
	if outcome != nil {
		return errors.Join(fmt.Errorf("%w. %s", outcome, c.broken(option.SelectDB, all)), closed)
	}
	if slowDisk(closed) { // after many records there are many files to remove, for which Close has no time
		closed = c.tidy(ctx, option.SelectDB, tidyPatience)
	}
	mu.Lock()
	defer mu.Unlock()
	e.printf("%s\n", total.String())
	if left > 0 {
		e.printf("%s left in %s\n", count(left, "record"), c.Dir)
	}
	for _, lost := range log.losses() {
		fmt.Fprintf(e.stderr, "aside: %s\n", lost)
	}
	switch {
	case closed != nil:
		return fmt.Errorf("all that is said above is done, but what is left of it on disk is not removed: run this again for that: %w", closed)
	case left == 0 && len(log.losses()) > 0:
		return errFound
	case left > 0:
		if total.Refusal == nil {
			if last := log.last(); last != "" {
				fmt.Fprintf(e.stderr, "aside: %s\n", last)
			}
		}
		return errFound
	}
	return nil
}

// broken says how far a replay of all records came that did not come to its end. The directory
// knows.
func (c *replayCmd) broken(db, all int) string {
	left := 0
	_, err := ops.Read(c.Dir, func(r ops.Record) error {
		if r.DB == db {
			left++
		}
		return nil
	})
	if err != nil {
		return fmt.Sprintf("how much is left cannot be read: %v", err)
	}
	return fmt.Sprintf("%d of %s were replayed, %d are left in %s: run this again to replay them", max(0, all-left), count(all, "record"), left, c.Dir)
}

// watch waits until the client has asked Redis for everything once; records that are left then were
// refused, or cannot be read.
func (c *replayCmd) watch(ctx context.Context, client *aside.Client, all int, bar *progress) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	heard := time.Now() // when Redis was there last
	for {
		health := client.Health()
		bar.set(all - health.Fallback.Pending() - health.Fallback.Fills)
		switch {
		case health.Mode == aside.Healthy:
			return nil
		case health.Mode == aside.Recovering:
			heard = time.Now()
		case time.Since(heard) > c.Wait:
			return fmt.Errorf("Redis went away, and was not back within --wait (%v): %w", c.Wait, health.Err)
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return errors.New("interrupted")
		}
	}
}

// add sums reports: of the shards of a cluster, and of one after the other of a shard. What the one before it has left is in
// this one, too: what was refused, had no answer, or was not sent.
func add(sum *fallback.ReplayReport, r, before fallback.ReplayReport) {
	if sum.Began.IsZero() || r.Began.Before(sum.Began) {
		sum.Began = r.Began
	}
	sum.Took = max(sum.Took, r.Began.Add(r.Took).Sub(sum.Began))
	sum.Total += r.Total - (before.Total - before.Done() + before.Refused)
	sum.Applied += r.Applied
	sum.Superseded += r.Superseded
	sum.Deleted += r.Deleted
	sum.Dropped += r.Dropped
	sum.Refused += r.Refused - before.Refused
	if r.Refusal != nil {
		sum.Refusal = r.Refusal
	}
}

// dryRun says what there is to do. What Redis will say to each record only its script can tell;
// here is compared whose stamp is greater.
func (c *replayCmd) dryRun(ctx context.Context, e *env, option rueidis.ClientOption, sum *ops.Summary, old int) error {
	option.DisableCache = true
	if option.Dialer.Timeout == 0 {
		option.Dialer.Timeout = c.Wait
	}
	client, err := rueidis.NewClient(option)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", redisName(option), err)
	}
	defer client.Close()
	newer, unknown := 0, 0
	var batch []ops.Record
	ask := func() error {
		if len(batch) == 0 {
			return nil
		}
		commands := make([]rueidis.Completed, len(batch))
		for i := range batch {
			commands[i] = client.B().Hget().Key(stamp.Bucket(batch[i].Key)).Field(stamp.Field(batch[i].Key)).Build()
		}
		ctx, cancel := context.WithTimeout(ctx, c.Wait)
		defer cancel()
		for i, answer := range client.DoMulti(ctx, commands...) {
			there, err := answer.ToString()
			switch {
			case rueidis.IsRedisNil(err):
				unknown++
			case err != nil:
				return fmt.Errorf("%s cannot be asked for stamps: %w", redisName(option), err)
			case later(there, &batch[i].Record):
				newer++
			}
		}
		batch = batch[:0]
		return nil
	}
	_, err = ops.Read(c.Dir, func(r ops.Record) error {
		if r.DB != option.SelectDB || r.Op == fallback.OpFill {
			return nil
		}
		r.Value = ""
		if batch = append(batch, r); len(batch) < 512 {
			return nil
		}
		return ask()
	})
	if err == nil {
		err = ask()
	}
	if err != nil {
		return err
	}
	e.printf("would replay %d to %s: %s\n", sum.Pending(), redisName(option), sum.Waits(count))
	e.printf("%d of these have a newer write in Redis and would change nothing; of %d Redis remembers no write\n", newer, unknown)
	if sum.Expired > 0 {
		e.printf("%d have expired: a set would become a delete\n", sum.Expired)
	}
	if old > 0 {
		e.printf("%s set more than %v ago (--stamp-ttl) and would become deletes\n", was(old, "record"), config.Short(c.stampTTL()))
	}
	if sum.Fills > 0 {
		e.printf("%s would be dropped: whether they still hold is not known after a restart\n", count(sum.Fills, "loaded value"))
	}
	return nil
}

// later reports whether the stamp that Redis has is later than a record's, so that nothing becomes of
// that; false for what is no stamp.
func later(there string, record *fallback.Record) bool {
	left, ok := stamp.ParseLeft(there)
	pending, also := stamp.Parse(record.Stamp)
	return ok && also && left.Later(pending) && !(record.Op == fallback.OpOperations && left.Changed)
}

// progress shows how far it has got: a bar on a terminal, a number where that has no room for one,
// and where there is none a line a second at most. Not safe for concurrent use.
type progress struct {
	w     io.Writer
	all   int
	width func() int               // of the terminal, which may change
	bar   *progressbar.ProgressBar // nil: there is no terminal
	shown int
	at    time.Time
	drawn bool // there is a number in the last line
}

// barWidth is how wide a terminal must be for the bar: what does not fit goes into the next line,
// and is not overwritten there.
const barWidth = 80

func newProgress(w io.Writer, all int) *progress {
	p := &progress{w: w, all: all, at: time.Now(), shown: -1}
	if file, ok := w.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		p.width = func() int {
			width, _, err := term.GetSize(int(file.Fd()))
			if err != nil {
				return 0
			}
			return width
		}
		p.bar = progressbar.NewOptions(all, progressbar.OptionSetWriter(w), progressbar.OptionSetDescription("replaying"), progressbar.OptionShowCount(),
			progressbar.OptionShowIts(), progressbar.OptionSetItsString("records"), progressbar.OptionFullWidth(), progressbar.OptionThrottle(50*time.Millisecond),
			progressbar.OptionSetPredictTime(true), progressbar.OptionOnCompletion(func() { fmt.Fprintln(w) }))
	}
	return p
}

func (p *progress) set(done int) {
	done = min(max(done, 0), p.all)
	text := "replayed " + strconv.Itoa(done) + " of " + strconv.Itoa(p.all)
	switch since := time.Since(p.at); {
	case p.bar == nil:
		if done != max(p.shown, 0) && since >= time.Second {
			p.shown, p.at = done, time.Now()
			fmt.Fprintln(p.w, text)
		}
	case p.width() < barWidth:
		if room := p.width() - 1; done != p.shown && since >= 100*time.Millisecond && room > 0 { // in the last column it would begin a new line
			p.shown, p.at, p.drawn = done, time.Now(), true
			fmt.Fprint(p.w, "\r\x1b[K"+text[:min(len(text), room)])
		}
	case done < p.all: // the bar ends when it is told to
		p.drawn = false
		_ = p.bar.Set(done) // it is only shown
	}
}

func (p *progress) end(done int) {
	switch {
	case p.bar == nil:
	case p.drawn || p.width() < barWidth:
		p.at = time.Time{}
		p.set(done)
		fmt.Fprintln(p.w)
	case done >= p.all:
		_ = p.bar.Finish() // it is only shown
	default:
		_ = p.bar.Exit()
		fmt.Fprintln(p.w)
	}
}

// warnings is a log that keeps the latest warning, and all that report a loss.
// Safe for concurrent use.
type warnings struct {
	mu   sync.Mutex
	text string   // guarded by mu, as is the next one
	lost []string // what could not be read
}

func (*warnings) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

func (l *warnings) Handle(_ context.Context, r slog.Record) error {
	text := strings.TrimPrefix(r.Message, "aside: ")
	r.Attrs(func(a slog.Attr) bool {
		text += " " + a.Key + "=" + plain(a.Value.String())
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch r.Message {
	case "aside: a fallback record is lost", "the journal: damaged", "the journal: records are missing":
		l.lost = append(l.lost, text)
	default:
		l.text = text
	}
	return nil
}

func (l *warnings) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l *warnings) WithGroup(string) slog.Handler      { return l }

func (l *warnings) last() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text
}

func (l *warnings) losses() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lost)
}

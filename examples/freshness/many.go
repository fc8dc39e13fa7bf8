package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/redaside/aside"
)

const (
	manyKeys = 40
	maxLoads = 8
	manyRow  = "%-31s| %-19v| %-18v| %-7v| %s\n"
)

// crowd is many keys that are asked for at the same moment.
type crowd struct {
	name, means string
	maxLoads    int
	opts        []aside.ViewOption

	most     int // loads at once
	together int // keys that end within a tenth of their ttl
	errs     int
}

// tellMany prints the table of many keys.
func tellMany(ctx context.Context, w io.Writer, addr, prefix string) error {
	fmt.Fprintf(w, "%d keys that nobody has asked for before, each with a caller, all at once:\n\n", manyKeys)
	fmt.Fprintf(w, manyRow, "options", "most loads at once", "end within ttl/10", "errors", "what the option does")
	fmt.Fprintln(w, strings.Repeat("-", ruler))
	var errs []error
	for i, c := range []*crowd{
		{name: "none", means: "as many loads as keys, and again when all end together"},
		{name: "WithJitter(0.5)", means: "each ttl is shorter by up to half of it: they do not end together", opts: []aside.ViewOption{aside.WithJitter(0.5)}},
		{name: "Options.MaxLoads: 8", means: "more loads wait for a second, then callers get ErrOverloaded", maxLoads: maxLoads},
	} {
		if err := c.play(ctx, addr, fmt.Sprintf("%smany%d:", prefix, i)); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", c.name, err))
			continue
		}
		fmt.Fprintf(w, manyRow, c.name, c.most, c.together, c.errs, c.means)
	}
	return errors.Join(errs...)
}

func (c *crowd) play(ctx context.Context, addr, prefix string) error {
	client, view, err := newView(addr, c.maxLoads, c.opts...)
	if err != nil {
		return err
	}
	defer client.Close()
	source := source{takes: loadTime / 4}
	began := time.Now()
	ends := make([]time.Duration, manyKeys)
	errs := make([]error, manyKeys)
	var all sync.WaitGroup
	for i := range manyKeys {
		all.Go(func() {
			var r aside.Result[int]
			r, errs[i] = view.Fetch(ctx, ttl, fmt.Sprint(prefix, i), source.load)
			ends[i] = time.Since(began) + r.TTL
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			c.errs++
		}
	}
	_, c.most = source.count()
	c.together = together(ends, ttl/10)
	return ctx.Err()
}

// together returns how many ends lie within some span at most.
func together(ends []time.Duration, span time.Duration) (most int) {
	slices.Sort(ends)
	for i, from := range ends {
		n, _ := slices.BinarySearch(ends[i:], from+span)
		most = max(most, n)
	}
	return most
}

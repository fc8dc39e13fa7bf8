package fallback_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/redaside/aside/fallback"
)

// printer stands for Redis: it takes everything, and says so.
type printer struct{}

func (printer) Replay(_ context.Context, records []fallback.Record) []fallback.Outcome {
	outcomes := make([]fallback.Outcome, len(records))
	for i, r := range records {
		fmt.Printf("%s %s %q\n", r.Op, r.Key, r.Value)
		outcomes[i].Verdict = fallback.Applied
	}
	return outcomes
}

// What is written while Redis is away survives the process, and is replayed when Redis is back:
// deletes first, and of each key the newest only.
func Example() {
	dir, err := os.MkdirTemp("", "aside")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	ctx := context.Background()
	o := fallback.Options{Logger: slog.New(slog.DiscardHandler)}
	end := time.Now().Add(time.Hour).UnixMilli()

	store, err := fallback.Open(dir, o)
	if err != nil {
		panic(err)
	}
	for _, r := range []fallback.Record{
		{Op: fallback.OpSet, Key: "user:42", Value: `{"name":"Ann"}`, Expires: end, Stamp: "0001"},
		{Op: fallback.OpSet, Key: "user:43", Value: `{"name":"Bob"}`, Expires: end, Stamp: "0002"},
		{Op: fallback.OpDel, Key: "user:43", Stamp: "0003"},
	} {
		if err := store.Put(ctx, r); err != nil {
			panic(err) // nil: the disk has it
		}
	}
	if err := store.Close(ctx); err != nil {
		panic(err)
	}

	// The next process.
	store, err = fallback.Open(dir, o)
	if err != nil {
		panic(err)
	}
	report, err := fallback.NewSyncer(store, printer{}, fallback.SyncerOptions{}).Run(ctx)
	fmt.Println(report.Applied, err, store.Pending("user:42"))
	if err := store.Close(ctx); err != nil {
		panic(err)
	}
	// Output:
	// del user:43 ""
	// set user:42 "{\"name\":\"Ann\"}"
	// 2 <nil> false
}

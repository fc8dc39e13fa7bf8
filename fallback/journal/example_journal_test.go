package journal_test

import (
	"context"
	"fmt"

	"github.com/redaside/aside/fallback/journal"
	"github.com/redaside/aside/internal/vfs"
)

func Example() {
	ctx, disk := context.Background(), vfs.NewMem() // vfs.Open(dir) for a real one
	show := func(r journal.Record) error {
		fmt.Printf("%d %c %s %s\n", r.Seq, r.Op, r.Key, r.Stamp)
		return nil
	}

	j, _, err := journal.Open(disk, "journal", journal.Options{}, show)
	if err != nil {
		panic(err)
	}
	err = j.Append(ctx, journal.Record{Op: journal.Set, Key: "a", Value: "1", Expires: 1900000000000, Stamp: "17:00:00-us"})
	if err != nil {
		panic(err)
	}
	disk = disk.Crash(0) // power fails

	j, report, err := journal.Open(disk, "journal", journal.Options{}, show)
	if err != nil {
		panic(err)
	}
	fmt.Println(report.Records, "record")
	if err := j.Drop(j.Mark()); err != nil { // Redis has it
		panic(err)
	}
	if err := j.Close(ctx); err != nil {
		panic(err)
	}
	fmt.Println(j.Size(), "bytes")
	// Output:
	// 1 s a 17:00:00-us
	// 1 record
	// 0 bytes
}

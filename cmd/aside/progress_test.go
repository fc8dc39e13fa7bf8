package main

import (
	"bytes"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/fallback"
)

func TestWhereThereIsNoTerminalProgressIsALineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out bytes.Buffer
		p := newProgress(&out, 100)
		for done := range 60 {
			p.set(done)
			time.Sleep(50 * time.Millisecond)
		}
		p.set(1000) // another has added some
		p.end(100)
		require.Equal(t, "replayed 20 of 100\nreplayed 40 of 100\nreplayed 100 of 100\n", out.String())
	})
}

func TestReportsAreSummedWithoutCountingARecordTwice(t *testing.T) {
	began := time.Unix(1000, 0)
	var sum fallback.ReplayReport
	add(&sum, fallback.ReplayReport{Began: began, Took: time.Second, Total: 10, Applied: 5, Failed: 5}, 0)                         // broken off
	add(&sum, fallback.ReplayReport{Began: began.Add(2 * time.Second), Took: time.Second, Total: 5, Superseded: 3, Refused: 2}, 0) // the rest
	add(&sum, fallback.ReplayReport{Began: began.Add(4 * time.Second), Took: time.Second, Total: 2, Applied: 1, Refused: 1}, 2)    // what was refused, again
	require.Equal(t, fallback.ReplayReport{Began: began, Took: 5 * time.Second, Total: 10, Applied: 6, Superseded: 3, Refused: 1}, sum)
}

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
	var sum, before fallback.ReplayReport
	for i, r := range []fallback.ReplayReport{
		{Total: 10, Applied: 5, Failed: 2},    // broken off; three were not sent
		{Total: 5, Superseded: 2, Refused: 2}, // a set became a delete when the deletes were done, and so was in none of the two
		{Total: 3, Applied: 2, Refused: 1},    // the rest, and what was refused, again
	} {
		r.Began, r.Took = began.Add(time.Duration(2*i)*time.Second), time.Second
		add(&sum, r, before)
		before = r
	}
	require.Equal(t, fallback.ReplayReport{Began: began, Took: 5 * time.Second, Total: 10, Applied: 7, Superseded: 2, Refused: 1}, sum)
}

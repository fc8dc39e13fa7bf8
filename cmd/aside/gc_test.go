package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestGarbageIsBoundedByTheSizeOfTheCache(t *testing.T) {
	for _, row := range []struct{ live, want int }{
		{0, 300}, {1 << 20, 300}, {4 << 20, 300}, {6 << 20, 200}, {12 << 20, 100}, {24 << 20, 50}, {40 << 20, 35}, {1 << 30, 35}, {1 << 50, 35},
	} {
		require.Equal(t, row.want, gcPercentFor(uint64(row.live)), row.live)
	}
}

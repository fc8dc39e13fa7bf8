package link

import (
	"context"
	"io"
	"testing"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"
)

func TestEveryErrorIsJudgedInOnePlace(t *testing.T) {
	for name, row := range map[string]struct {
		err     error
		limited bool
		want    verdict
	}{
		"none":                      {nil, true, answered},
		"our timeout":               {context.DeadlineExceeded, true, timedOut},
		"the caller's deadline":     {context.DeadlineExceeded, false, gaveUp},
		"the caller's cancellation": {context.Canceled, true, gaveUp},
		"a broken connection":       {io.EOF, true, away},
		"rueidis is closing":        {rueidis.ErrClosing, true, away},
	} {
		require.Equal(t, row.want, judge(row.err, row.limited), name)
	}
}

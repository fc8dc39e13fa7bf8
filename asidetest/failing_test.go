package asidetest_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
)

// A failed load is remembered for as long as the option says, and never longer, with Redis and
// without.
func TestAnErrorIsRememberedForErrorTTLAndNoLonger(t *testing.T) {
	for name, away := range map[string]bool{"healthy": false, "in an outage": true} {
		for option, held := range map[string]time.Duration{"the default": 50 * time.Millisecond, "Options.ErrorTTL": 3 * time.Second, "WithErrorTTL": 10 * time.Second, "none": 0} {
			t.Run(name+", "+option, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					server, ctx := asidetest.NewServer(t), t.Context()
					c := server.Client(func(o *aside.Options) {
						if option == "Options.ErrorTTL" {
							o.ErrorTTL = held
						}
					})
					var opts []aside.CallOption
					switch option {
					case "WithErrorTTL":
						opts = append(opts, aside.WithErrorTTL(held))
					case "none":
						opts = append(opts, aside.WithErrorTTL(-1))
					}
					if away {
						server.Down()
						time.Sleep(3 * time.Second)
						held = min(held, 50*time.Millisecond) // nobody would tell of a change
					}
					loads := 0
					get := func() {
						_, err := c.Get(ctx, time.Minute, "k", func(context.Context, string) (string, error) {
							loads++
							return "", errors.New("broken")
						}, opts...)
						require.EqualError(t, err, "broken")
						synctest.Wait()
					}
					get()
					require.Equal(t, 1, loads)
					if held > 0 {
						get()
						time.Sleep(held - time.Nanosecond)
						get()
						require.Equal(t, 1, loads)
						time.Sleep(time.Nanosecond)
					}
					get()
					require.Equal(t, 2, loads)
				})
			})
		}
	}
}

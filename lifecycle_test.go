package aside

import (
	"errors"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// Goroutines serve callbacks one after the other, whatever these do, and end when there are none.
func TestACallbackRunsInAGoroutineThatServesOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lc lifecycle
		lc.begin()
		run := func(fn func()) (id int64, err error) {
			err = lc.contained("it", func() {
				id = goroutine()
				require.True(t, lc.inCallback())
				fn()
			})
			synctest.Wait() // it waits for the next one
			return id, err
		}
		first, err := run(func() {})
		require.NoError(t, err)
		again, err := run(func() { panic("no") })
		require.Equal(t, first, again)
		var panicked *PanicError
		require.ErrorAs(t, err, &panicked)
		var inner int64
		again, err = run(func() { inner, _ = run(func() {}) })
		require.NoError(t, err)
		require.Equal(t, first, again)
		require.NotEqual(t, first, inner, "the first is busy")
		id, err := run(runtime.Goexit)
		require.Contains(t, []int64{first, inner}, id)
		require.EqualError(t, err, goexited("it").Error())
		next, err := run(func() {})
		require.NoError(t, err)
		require.NotEqual(t, id, next, "that one has ended")
		require.Contains(t, []int64{first, inner}, next)

		time.Sleep(2 * time.Second) // of the bubble's time
		synctest.Wait()
		lc.callbacks.Range(func(id, _ any) bool {
			t.Errorf("goroutine %v is left", id)
			return true
		})
		_, err = run(func() {})
		require.NoError(t, err)
		lc.cancel()
		synctest.Wait()
		lc.callbacks.Range(func(any, any) bool {
			require.NoError(t, errors.New("a goroutine is left after Close"))
			return true
		})
		_, err = run(func() {})
		require.NoError(t, err, "while the client is closing, too")
	})
}

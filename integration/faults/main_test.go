package faults_test

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/redaside/aside/internal/redistest"
)

var (
	full  = flag.Bool("full", false, "all rows, at full length, one at a time; 200 cycles")
	table = flag.String("table", "", "a Markdown file for the fault matrix")
)

func TestMain(m *testing.M) {
	// rueidis sleeps for a second before it looks at a topology again that it could not read, and
	// for five before it closes the connections to nodes that have left, whether it is closed or
	// not. Whatever else is left is ours.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*call).DelayDo.func1"),
		goleak.IgnoreAnyFunction("github.com/redis/rueidis.(*clusterClient)._refresh.func2"))
}

// patience bounds every wait of a test for something that has to happen. It proves nothing about
// speed.
const patience = time.Minute

// ownServers has the tests use server processes of their own, whatever there is beside: they are
// signalled, and files are put under them.
func ownServers(t testing.TB) {
	t.Helper()
	if testing.Short() {
		t.Skip("-short: this test needs a server")
	}
	if redistest.Binary() == "" {
		redistest.Skip(t, "the faults need a server binary: apt-get install redis-server, or set REDIS_SERVER")
	}
	t.Setenv("ASIDE_BACKEND", "binary")
}

// eventually waits for what somebody else does in their own time.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience)
	t.Cleanup(cancel)
	return ctx
}

// files are the files below a fallback directory, but for its lock.
func files(t testing.TB, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if os.IsNotExist(err) { // removed while we looked
			return nil
		}
		if err == nil && !d.IsDir() && path != filepath.Join(dir, "lock") {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	return names
}

// footprint is what a process has open.
type footprint struct{ goroutines, descriptors int }

func newFootprint() footprint {
	list, _ := os.ReadDir("/proc/self/fd") // none elsewhere than on Linux
	return footprint{runtime.NumGoroutine(), len(list)}
}

// beyond says by how much f exceeds an earlier footprint, once what ends by itself has had time to.
func beyond(before footprint) (more footprint) {
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		now := newFootprint()
		more = footprint{max(now.goroutines-before.goroutines, 0), max(now.descriptors-before.descriptors, 0)}
		if more == (footprint{}) || time.Now().After(end) {
			return more
		}
	}
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors", f.goroutines, f.descriptors)
}

// watchClock notes how late a goroutine is woken, until the function that it returns is called,
// which reports whether that was never too late for measuring.
func watchClock(t testing.TB) (calm func() bool) {
	stop, latest := make(chan struct{}), make(chan time.Duration)
	go func() { // ends with calm
		most := time.Duration(0)
		for {
			const nap = 2 * time.Millisecond
			slept := time.Now()
			select {
			case <-stop:
				latest <- most
				return
			case <-time.After(nap):
				most = max(most, time.Since(slept)-nap)
			}
		}
	}()
	calm = sync.OnceValue(func() bool {
		close(stop)
		return <-latest < noisy
	})
	t.Cleanup(func() { calm() })
	return calm
}

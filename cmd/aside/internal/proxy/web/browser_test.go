package web

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidehttp"
	"github.com/redaside/aside/internal/redistest"
)

// The page in a real browser. With ASIDE_SCREENSHOTS=DIR each mode leaves pictures there, for
// somebody to look at.

// browser is one tab of a headless Chromium.
type browser struct {
	t   testing.TB
	ctx context.Context

	mu       sync.Mutex
	troubles []string // what it complained about: exceptions, refusals by the policy, failed requests
}

// browserPath is the program at CHROMIUM, else one of PATH; "" if there is none.
func browserPath() string {
	if path := os.Getenv("CHROMIUM"); path != "" {
		return path
	}
	for _, name := range []string{"headless-shell", "chromium", "chromium-browser", "google-chrome-stable", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func newBrowser(t testing.TB) *browser {
	t.Helper()
	path := browserPath()
	if path == "" {
		redistest.Skip(t, "this test needs a browser: apt-get install chromium, or set CHROMIUM to one")
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:len(chromedp.DefaultExecAllocatorOptions):len(chromedp.DefaultExecAllocatorOptions)],
		chromedp.ExecPath(path),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // for root, in containers; the page is ours
	)
	allocator, cancelAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, cancel := chromedp.NewContext(allocator)
	b := &browser{t: t, ctx: ctx}
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // waits until the browser has ended, before TempDir is removed
		cancel()
		cancelAllocator()
	})
	require.NoError(t, chromedp.Do(ctx)) // starts the browser, which lives as long as the context of this call
	require.NoError(t, chromedp.Listen(ctx, func(event any) {
		b.mu.Lock()
		defer b.mu.Unlock()
		switch e := event.(type) {
		case *runtime.EventExceptionThrown:
			b.troubles = append(b.troubles, fmt.Sprintf("%s: line %d", e.ExceptionDetails.Text, e.ExceptionDetails.LineNumber))
		case *log.EventEntryAdded:
			b.troubles = append(b.troubles, fmt.Sprintf("%s: %s", e.Entry.Source, e.Entry.Text))
		}
	}))
	_, err := chromedp.Call(ctx, log.Enable, cdp.Empty{})
	require.NoError(t, err)
	return b
}

func run[T any](b *browser, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	require.NoError(b.t, err)
	return result
}

func call[P, R any](b *browser, command cdp.Command[P, R], params P) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	_, err := chromedp.Call(ctx, command, params)
	require.NoError(b.t, err)
}

// js is what an expression says on the page, from outside: the page's policy does not stop it.
func js[T any](b *browser, expression string) T {
	b.t.Helper()
	return run(b, chromedp.Evaluate[T](expression))
}

func (b *browser) text(id string) string {
	b.t.Helper()
	return js[string](b, fmt.Sprintf("document.getElementById(%q).innerText", id))
}

func (b *browser) await(what, condition string) {
	b.t.Helper()
	eventually(b.t, what, func() bool { return js[bool](b, condition) })
}

// calm says that the browser had nothing to complain about.
func (b *browser) calm() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.troubles)
}

// views are the windows that the page must fit.
var views = []struct {
	name          string
	width, height int64
	mobile        bool
}{{"desktop", 1280, 900, false}, {"phone", 390, 844, true}}

// unreadable lists texts whose contrast to what is behind them is less than WCAG AA asks for: 4.5,
// or 3 for large ones.
const unreadable = `(() => {
	const parse = color => { const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number); return {r, g, b, a}; };
	const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
	const light = ({r, g, b}) => .2126 * linear(r) + .7152 * linear(g) + .0722 * linear(b);
	const behind = e => {
		for (; e; e = e.parentElement) {
			const c = parse(getComputedStyle(e).backgroundColor);
			if (c.a === 1) return c;
		}
		return {r: 255, g: 255, b: 255};
	};
	const bad = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
	for (let n; (n = walker.nextNode());) {
		const e = n.parentElement, style = getComputedStyle(e);
		if (!n.data.trim() || ["SCRIPT", "STYLE", "NOSCRIPT"].includes(e.tagName) || e.getClientRects().length === 0) continue;
		const [a, b] = [light(parse(style.color)), light(behind(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
		const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 600;
		if (ratio < (large ? 3 : 4.5)) bad.push(n.data.trim() + ": " + ratio.toFixed(2));
	}
	return bad;
})()`

// inspect looks at the page as it is now in each view, light and dark: it fits, it can be read, and
// there is a picture of it if one is wanted.
func (b *browser) inspect(name string) {
	b.t.Helper()
	for _, view := range views {
		for _, scheme := range []string{"light", "dark"} {
			call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
				Width: view.width, Height: view.height, DeviceScaleFactor: 1, Mobile: view.mobile,
			})
			call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
				Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
			})
			require.Empty(b.t, js[[]string](b, unreadable), "%s, %s, %s", name, view.name, scheme)
			require.LessOrEqual(b.t, js[int64](b, "document.documentElement.scrollWidth"), view.width, "%s on a %s: nothing sticks out", name, view.name)
			if dir := os.Getenv("ASIDE_SCREENSHOTS"); dir != "" {
				picture := run(b, chromedp.FullScreenshot(100))
				require.NoError(b.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%s-%s.png", name, view.name, scheme)), picture, 0o644))
			}
		}
	}
}

func TestThePageShowsAnOutageFromBeginningToEnd(t *testing.T) {
	const records, rate = 4000, 500 // so that the replay takes 8 seconds, of which inspect takes some
	f := newFront(t, setup{
		client: []func(*aside.Options){durable(t), func(o *aside.Options) { o.ReplayRate = rate }},
		web: Options{
			Version: "v0.9.1", RESP: func() (int64, int64) { return 12, 34567 },
			Redis: "redis.example.internal:6379", FallbackDir: "/var/lib/aside/redis.example.internal_6379-1c7c3c3d",
		},
	})
	for i := range 30 {
		f.put(fmt.Sprint("before", i), "v")
		f.holds(fmt.Sprint("before", i), "v")
		f.holds(fmt.Sprint("before", i), "v")
	}
	f.send("GET", "/get?key=none", "")
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	b.await("it is healthy", "document.getElementById('mode').innerText === 'healthy'")
	require.Equal(t, "healthy · aside", js[string](b, "document.title"))
	require.Equal(t, "0", b.text("pending"))
	require.Equal(t, "Nothing to replay.", b.text("replay-text"))
	require.Equal(t, "v0.9.1", b.text("version"))
	require.Equal(t, "redis.example.internal:6379", b.text("redis"))
	require.Equal(t, "Nothing.", b.text("todo-text"))
	require.Equal(t, "0", b.text("refused"))
	require.Equal(t, "kept in /var/lib/aside/redis.example.internal_6379-1c7c3c3d", b.text("dir"))
	require.Equal(t, "0 % of 1.0 GiB", b.text("full"))
	require.True(t, js[bool](b, "document.getElementById('mode').closest('[aria-live=polite]') !== null"))
	b.await("latencies are there", `/^\d/.test(document.querySelector('#latency tr').cells[3].innerText)`)
	stats := f.client.Stats()
	require.Positive(t, stats.MemoryHits)
	b.await("hits are there", fmt.Sprintf("document.getElementById('tiers').rows[0].cells[1].innerText === '%d'", stats.MemoryHits))
	require.Equal(t, fmt.Sprintf("%.1f %%", 100*float64(stats.MemoryHits)/float64(stats.MemoryHits+stats.RedisHits+1)),
		js[string](b, "document.getElementById('tiers').rows[0].cells[2].innerText"))
	b.await("so is the last minute", "document.getElementById('tiers').rows[0].cells[3].innerText === document.getElementById('tiers').rows[0].cells[2].innerText")
	b.inspect("healthy")

	f.redis.Kill()
	b.await("it is degraded", "document.getElementById('mode').innerText === 'degraded'")
	require.NotEmpty(t, b.text("why"))
	require.Contains(t, b.text("meaning"), "on disk before they are acknowledged")
	var writers sync.WaitGroup
	for w := range 8 {
		writers.Go(func() {
			for i := range records / 8 {
				r := f.send("PUT", KeyPath(fmt.Sprintf("meanwhile-%d-%d", w, i)), "v")
				if r.StatusCode != http.StatusNoContent {
					t.Errorf("%d: %s", r.StatusCode, r.body)
					return
				}
			}
		})
	}
	writers.Wait()
	b.await("the backlog is shown", "document.getElementById('pending').innerText === '4,000'")
	require.Equal(t, "Replay begins when Redis is back.", b.text("replay-text"))
	require.Equal(t, http.StatusServiceUnavailable, f.send("GET", "/get?key=nobody-knows", "").StatusCode)
	b.await("what was refused is shown", "document.getElementById('refused').innerText === '1 (1 in 60 s)'")
	require.Equal(t, "Bring back Redis at redis.example.internal:6379. The rest is done here: writes are kept, and replayed then.", b.text("todo-text"))
	b.inspect("degraded")

	f.redis.RestartKeepingData()
	b.await("it is recovering", "document.getElementById('mode').innerText === 'recovering'")
	const bar = "document.getElementById('replay')"
	b.await("the bar has moved", bar+".max === 4000 && "+bar+".value > 0 && "+bar+".value < 4000")
	seen := js[float64](b, bar+".value")
	require.Contains(t, b.text("replay-text"), "of 4,000 records")
	require.Contains(t, b.text("replay-rate"), "left")
	require.Equal(t, "Nothing: the replay ends by itself.", b.text("todo-text"))
	b.inspect("recovering")
	b.await("the bar has moved on", fmt.Sprintf("%s.value > %v || document.getElementById('mode').innerText === 'healthy'", bar, seen))
	b.await("it is healthy again", "document.getElementById('mode').innerText === 'healthy'")
	b.await("the replay is over", "document.getElementById('replay-text').innerText.startsWith('Last replay: 4,000 of 4,000')")
	require.Equal(t, "0", b.text("pending"))
	require.Equal(t, []string{"recovering → healthy", "degraded → recovering", "healthy → degraded"},
		js[[]string](b, "[...document.querySelectorAll('#changes tbody tr')].map(r => r.cells[1].innerText)"))
	b.inspect("healthy-again")
	b.calm()

	f.server.Close()
	f.http.Close()
	b.await("it says that what it shows is old", "!document.getElementById('lost').hidden && document.body.classList.contains('stale')")
	require.Contains(t, b.text("lost"), "No connection to the proxy. What is shown is from")
	require.Equal(t, js[string](b, "getComputedStyle(document.body).getPropertyValue('--unknown')"),
		js[string](b, "getComputedStyle(document.body).getPropertyValue('--mode')"), "no colour that says it is well")
	b.inspect("lost")
}

func TestThePageAsksForTheToken(t *testing.T) {
	f := newFront(t, setup{web: Options{Token: token}})
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	run(b, chromedp.WaitVisible(chromedp.CSS("#token")))
	b.inspect("token")
	run(b, chromedp.SendKeys(chromedp.CSS("#token"), token))
	run(b, chromedp.Click(chromedp.CSS("button")))
	b.await("it is healthy", "document.getElementById('mode')?.innerText === 'healthy'")
	require.Equal(t, f.http.URL+"/", js[string](b, "location.href"))
	require.Empty(t, js[string](b, "document.cookie"), "no script can read it")
}

func TestThePageFindsItsWayBackToTheProxy(t *testing.T) {
	f := newFront(t, setup{})
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	b.await("it is healthy", "document.getElementById('mode').innerText === 'healthy'")
	f.http.CloseClientConnections()
	b.await("it has noticed", "source.readyState !== EventSource.OPEN")
	b.await("it is connected again", "source.readyState === EventSource.OPEN")
	require.True(t, js[bool](b, "document.getElementById('lost').hidden"))
}

// The page of a service asks for what the proxy's is told.
func TestThePageOfAServiceIsTheSame(t *testing.T) {
	f := newFront(t, setup{client: []func(*aside.Options){durable(t)}})
	service := httptest.NewServer(http.StripPrefix("/debug/cache", asidehttp.Handler(f.client, func(*http.Request) bool { return true })))
	t.Cleanup(service.Close)
	_, err := f.client.Get(context.Background(), time.Minute, "k", func(context.Context, string) (string, error) { return "v", nil })
	require.NoError(t, err)
	b := newBrowser(t)
	run(b, chromedp.Navigate(service.URL+"/debug/cache/"))
	b.await("it is healthy", "document.getElementById('mode').innerText === 'healthy'")
	require.True(t, js[bool](b, "document.getElementById('latency-section').hidden"))
	require.Equal(t, "1", js[string](b, "document.getElementById('loads').rows[0].cells[1].innerText"))
	require.Equal(t, "loader calls", b.text("missed-of"))
	b.inspect("service")
	f.redis.Kill()
	b.await("it is degraded", "document.getElementById('mode').innerText === 'degraded'")
	f.redis.RestartKeepingData()
	b.await("it is healthy again", "document.getElementById('mode').innerText === 'healthy'")
	run(b, chromedp.SendKeys(chromedp.CSS("#key"), "k"))
	run(b, chromedp.Click(chromedp.CSS(".explain button")))
	b.await("it is explained", "document.querySelector('#redis dd') !== null")
	require.Equal(t, service.URL+"/debug/cache/explain?key=k", js[string](b, "location.href"))
	b.calm()
	run(b, chromedp.Click(chromedp.CSS("footer a")))
	b.await("it is healthy", "document.getElementById('mode')?.innerText === 'healthy'")
	service.CloseClientConnections()
	service.Close()
	b.await("it says that what it shows is old", "!document.getElementById('lost').hidden")
	require.Contains(t, b.text("lost"), "No connection to the service.")
}

func TestThePageShowsTheShardsOfACluster(t *testing.T) {
	f := newFront(t, setup{})
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	b.await("it is healthy", "document.getElementById('mode').innerText === 'healthy'")
	require.True(t, js[bool](b, "document.getElementById('shards-section').hidden"), "one shard is no cluster")
	js[any](b, `source.close(); show({...last, mode: "degraded", error: "dial tcp 10.0.0.2:6379: connect: connection refused", shards: [
		{addr: "10.0.0.1:6379", mode: "healthy", since: last.since}, {addr: "10.0.0.3:6379", mode: "recovering", since: last.since},
		{addr: "redis-0002.with-a-long-name.example.internal:6379", mode: "degraded", since: last.since, error: "dial tcp 10.0.0.2:6379: connection refused"}],
		todo: "See to the disk, or the rights, of /var/lib/aside: writes are refused while it fails.", refused: {all: 1234567, minute: 2345},
		redis: "redis-0001.with-a-long-name.example.internal:6379",
		replay: {...last.replay, running: true, shard: "10.0.0.3:6379", began: last.now, done: 1234, total: 5000,
			verdicts: {applied: 1200, superseded: 34}},
		backlog: {...last.backlog, sets: 12345, deletes: 678, bytes: 123456789, quarantined: 2,
			error: "write /var/lib/aside/journal: no space left on device"}})`)
	require.Equal(t, []string{"healthy", "recovering", "degraded"},
		js[[]string](b, "[...document.getElementById('shards').rows].map(r => r.cells[1].innerText)"))
	require.Contains(t, b.text("replay-text"), "Replaying on 10.0.0.3:6379: 1,234 of 5,000")
	require.Contains(t, b.text("trouble"), "The disk says: write /var/lib/aside/journal: no space left on device. 2 files")
	require.Contains(t, b.text("meaning"), "1 of 3 shards is away")
	b.inspect("cluster")
	b.calm()
}

func TestThePageShowsANodeOfAClusterThatDies(t *testing.T) {
	cluster := redistest.StartCluster(t)
	f := newFront(t, setup{client: []func(*aside.Options){durable(t), hasty, func(o *aside.Options) { o.Redis.InitAddress = cluster.Addrs() }}})
	b := newBrowser(t)
	run(b, chromedp.Navigate(f.http.URL))
	const modes = "[...document.getElementById('shards').rows].map(r => r.cells[1].innerText).sort().join()"
	b.await("all three are healthy", modes+" === 'healthy,healthy,healthy'")

	const dies = 1
	cluster.Node(dies).Kill()
	b.await("one is degraded", modes+" === 'degraded,healthy,healthy'")
	require.Equal(t, cluster.Addrs()[dies], js[string](b, "[...document.getElementById('shards').rows].find(r => r.cells[1].innerText === 'degraded').cells[0].innerText"))
	require.Contains(t, b.text("meaning"), "1 of 3 shards is away")
	waiting := 0
	for i := range 60 {
		key := fmt.Sprint("meanwhile-", i)
		require.Equal(t, http.StatusNoContent, f.send("PUT", KeyPath(key), "v").StatusCode)
		if cluster.NodeOf(key) == dies {
			waiting++
		}
	}
	b.await("what waits is its own", fmt.Sprintf("document.getElementById('pending').innerText === '%d'", waiting))

	cluster.Node(dies).RestartKeepingData()
	b.await("all are healthy", modes+" === 'healthy,healthy,healthy' && document.getElementById('mode').innerText === 'healthy'")
	b.await("it is replayed", fmt.Sprintf("document.getElementById('replay-text').innerText.includes('%d of %d')", waiting, waiting))
	require.Equal(t, "0", b.text("pending"))
	b.calm()
}

package services_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"
	"github.com/valyala/fasthttp"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/harness"
)

// Servers that keep their contexts in a pool, and a loader that asks its context for the tenant:
// two clients of a tenant ask for the same settings, the first gives up while the second waits, and
// requests of other tenants get the context of the first. Nobody may be given their settings.

// tenants is a service behind such a server. Its handlers call get with the context of their
// request.
type tenants struct {
	client *aside.Client
	get    func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error)

	began    chan struct{} // gets a token from each loader
	goOn     chan struct{} // gives one to each
	inside   atomic.Int64  // requests of other tenants
	returned atomic.Int64  // handlers
	letGo    chan struct{} // closed when other tenants' requests may end
}

func (s *tenants) load(ctx context.Context, key string) (string, error) {
	s.began <- struct{}{}
	<-s.goOn
	tenant, ok := ctx.Value("tenant").(string)
	if !ok {
		return "", errors.New("no tenant")
	}
	return "settings of " + tenant, nil
}

// handle is what a handler does for a request of tenant, whose context knows it.
func (s *tenants) handle(ctx context.Context, tenant string, other bool) (string, error) {
	if other {
		s.inside.Add(1)
		<-s.letGo
		return "", nil
	}
	return s.get(ctx, s.client, "settings:"+tenant, s.load)
}

// fetch asks for a tenant's settings, as one of its clients.
type fetch func(ctx context.Context, tenant string, other bool) (string, error)

func serveGin(t *testing.T, s *tenants) fetch {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.ContextWithFallback = true
	engine.Use(func(g *gin.Context) { g.Set("tenant", g.GetHeader("Tenant")) })
	engine.GET("/", func(g *gin.Context) {
		value, err := s.handle(g, g.GetHeader("Tenant"), g.GetHeader("Other") != "")
		if err != nil {
			value = err.Error()
		}
		g.String(http.StatusOK, "%s", value)
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		engine.ServeHTTP(w, r)
		s.returned.Add(1)
	}))
	t.Cleanup(server.Close)
	return overHTTP(t, server.URL, server.Client())
}

func overHTTP(t *testing.T, url string, keepAlive *http.Client) fetch {
	t.Cleanup(keepAlive.CloseIdleConnections)
	return func(ctx context.Context, tenant string, other bool) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return "", err
		}
		request.Header.Set("Tenant", tenant)
		if other {
			request.Header.Set("Other", "yes")
		}
		response, err := keepAlive.Do(request)
		if err != nil {
			return "", err
		}
		defer func() { _ = response.Body.Close() }()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
}

// A request's context of fasthttp does not end when its client goes, so its handlers bound it:
// here, by what the test says.
func serveFast(t *testing.T, s *tenants) fetch {
	var mu sync.Mutex
	gone := make(map[string]<-chan struct{}) // by the number of the request
	server := &fasthttp.Server{Handler: func(r *fasthttp.RequestCtx) {
		tenant := string(r.Request.Header.Peek("Tenant"))
		r.SetUserValue("tenant", tenant)
		mu.Lock()
		hangUp := gone[string(r.Request.Header.Peek("Number"))]
		mu.Unlock()
		value, err := s.handle(patient{r, hangUp}, tenant, len(r.Request.Header.Peek("Other")) > 0)
		if err != nil {
			value = err.Error()
		}
		r.SetBodyString(value)
		s.returned.Add(1)
	}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(listener) }()
	client := &fasthttp.Client{}
	t.Cleanup(func() {
		client.CloseIdleConnections()
		require.NoError(t, server.Shutdown())
		require.NoError(t, <-ended)
	})
	var numbers atomic.Int64
	return func(ctx context.Context, tenant string, other bool) (string, error) {
		request, response := fasthttp.AcquireRequest(), fasthttp.AcquireResponse()
		defer fasthttp.ReleaseRequest(request)
		defer fasthttp.ReleaseResponse(response)
		number := fmt.Sprint(numbers.Add(1))
		mu.Lock()
		gone[number] = ctx.Done()
		mu.Unlock()
		request.SetRequestURI("http://" + listener.Addr().String() + "/")
		request.Header.Set("Tenant", tenant)
		request.Header.Set("Number", number)
		if other {
			request.Header.Set("Other", "yes")
		}
		err := client.Do(request, response)
		return string(response.Body()), err
	}
}

// patient is a request's context that ends when its client has gone.
type patient struct {
	*fasthttp.RequestCtx
	gone <-chan struct{}
}

func (p patient) Done() <-chan struct{} { return p.gone }

func (p patient) Err() error {
	select {
	case <-p.gone:
		return context.Canceled
	default:
		return nil
	}
}

func TestNobodyGetsAnotherTenantsSettings(t *testing.T) {
	type get = func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error)
	one := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		return c.Get(ctx, time.Minute, key, load)
	}
	many := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		values, err := c.GetMulti(ctx, time.Minute, []string{key, "flags:" + key}, func(ctx context.Context, keys []string) (map[string]string, error) {
			value, err := load(ctx, key)
			found := make(map[string]string)
			for _, key := range keys {
				found[key] = value
			}
			return found, err
		})
		return values[key], err
	}
	nested := func(ctx context.Context, c *aside.Client, key string, load aside.Loader[string]) (string, error) {
		return c.Get(ctx, time.Minute, "page:"+key, func(ctx context.Context, _ string) (string, error) {
			return c.Get(ctx, time.Minute, key, load)
		})
	}
	for name, serve := range map[string]func(*testing.T, *tenants) fetch{"gin": serveGin, "fasthttp": serveFast} {
		for how, call := range map[string]get{"Get": one, "GetMulti": many, "nested": nested} {
			t.Run(name+"/"+how, func(t *testing.T) {
				client, server := newClient(t)
				s := &tenants{client: client, get: call, began: make(chan struct{}), goOn: make(chan struct{})}
				ask := serve(t, s)
				for round := range 4 {
					s.oneGivesUp(t, ask, fmt.Sprintf("a%d", round))
				}
				for round := range 4 {
					tenant := fmt.Sprintf("a%d", round)
					value, err := ask(t.Context(), tenant, false)
					require.NoError(t, err)
					require.Equal(t, "settings of "+tenant, value)
					harness.Stored(t, client, "settings:"+tenant)
					require.Equal(t, "settings of "+tenant, server.Do("GET", "settings:"+tenant))
				}
			})
		}
	}
}

func (s *tenants) oneGivesUp(t *testing.T, ask fetch, tenant string) {
	t.Helper()
	shared, returned := s.client.Stats().Shared, s.returned.Load()
	first, hangUp := context.WithCancel(t.Context())
	defer hangUp()
	var clients sync.WaitGroup
	clients.Go(func() { _, _ = ask(first, tenant, false) })
	<-s.began
	second := make(chan string, 1)
	clients.Go(func() {
		value, err := ask(t.Context(), tenant, false)
		if err != nil {
			value = err.Error()
		}
		second <- value
	})
	eventually(t, "the second waits", func() bool { return s.client.Stats().Shared > shared })
	hangUp()
	eventually(t, "the first has gone", func() bool { return s.returned.Load() > returned })

	const others = 8
	s.inside.Store(0)
	s.letGo = make(chan struct{})
	letGo := sync.OnceFunc(func() { close(s.letGo) })
	defer letGo()
	for i := range others {
		clients.Go(func() { _, _ = ask(t.Context(), fmt.Sprintf("other%d", i), true) })
	}
	eventually(t, "other tenants are inside", func() bool { return s.inside.Load() == others })
	s.goOn <- struct{}{}
	require.Equal(t, "settings of "+tenant, <-second)
	letGo()
	clients.Wait()
}

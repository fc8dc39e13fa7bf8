package aside_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
)

// A service that needs Redis for other things, too, need not connect by itself: Redis gives it a
// client with connections of its own.
func ExampleClient_Redis() {
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{InitAddress: []string{"redis.internal:6379"}}})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	redis, ok := client.Redis()
	if !ok {
		return // it has not been reached yet
	}
	ctx := context.Background()
	if err := redis.Do(ctx, redis.B().Lpush().Key("jobs").Element("welcome").Build()).Error(); err != nil {
		slog.Warn("not queued", "error", err)
	}
	err = redis.Dedicated(func(own rueidis.DedicatedClient) error { // transactions, and all that changes a connection
		return own.Do(ctx, own.B().Watch().Key("jobs").Build()).Error()
	})
	if err != nil {
		slog.Warn("not watched", "error", err)
	}
}

// timed is a rueidis client that says how long each command took, as tracing libraries do. All else
// is the client's own.
type timed struct{ rueidis.Client }

func (t timed) Do(ctx context.Context, cmd rueidis.Completed) rueidis.RedisResult {
	began := time.Now()
	result := t.Client.Do(ctx, cmd)
	slog.DebugContext(ctx, "redis", "took", time.Since(began), "error", result.Error())
	return result
}

func (t timed) DoMulti(ctx context.Context, multi ...rueidis.Completed) []rueidis.RedisResult {
	began := time.Now()
	results := t.Client.DoMulti(ctx, multi...)
	slog.DebugContext(ctx, "redis", "took", time.Since(began), "commands", len(results))
	return results
}

// ClientBuilder wraps the client, for tracing or metrics. It must make it from the option that it
// gets.
func ExampleOptions_clientBuilder() {
	client, err := aside.New(aside.Options{
		Redis: rueidis.ClientOption{InitAddress: []string{"redis.internal:6379"}},
		ClientBuilder: func(option rueidis.ClientOption) (rueidis.Client, error) {
			redis, err := rueidis.NewClient(option)
			if err != nil {
				return nil, err
			}
			return timed{redis}, nil
		},
	})
	if err != nil {
		panic(err)
	}
	defer client.Close()
}

// DialCtxFn dials in a way of its own, here through a Unix socket. Each call must make a
// connection.
func ExampleOptions_dialer() {
	client, err := aside.New(aside.Options{Redis: rueidis.ClientOption{
		InitAddress: []string{"localhost:6379"}, // a name for it: the dialer need not use it
		DialCtxFn: func(ctx context.Context, _ string, dialer *net.Dialer, _ *tls.Config) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", "/run/redis/redis.sock")
		},
	}})
	if err != nil {
		panic(err)
	}
	defer client.Close()
	if why := client.Health().Err; why != nil {
		fmt.Println(why)
	}
}

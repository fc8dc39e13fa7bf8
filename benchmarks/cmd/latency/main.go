// Latency measures what the proxy adds to a command: a client with one connection asks Redis and the
// proxy in turns, one command after the other. It prints rows of a Markdown table.
//
//	go run ./cmd/latency -redis 127.0.0.1:6379 -proxy 127.0.0.1:9998 [-n 20000]
//
// Both must lead to the same Redis. Its keys with the prefix "latency:" are used, and deleted.
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// turn is how many commands one of them gets before it is the other's turn: few enough that both
// meet the same weather.
const turn = 100

// kind is a kind of command. prepare makes what command needs for n calls, in Redis itself.
type kind struct {
	name    string
	prepare func(ctx context.Context, c *redis.Client, n int) error
	command func(ctx context.Context, c *redis.Client, i int) error
}

func key(name string, i int) string { return "latency:" + name + ":" + strconv.Itoa(i) }

var value = strings.Repeat("v", 200)

var kinds = []kind{
	{"`GET`, the proxy has it in memory", func(ctx context.Context, c *redis.Client, _ int) error {
		return c.Set(ctx, "latency:hot", value, 0).Err()
	}, func(ctx context.Context, c *redis.Client, _ int) error { return c.Get(ctx, "latency:hot").Err() }},
	{"`GET`, it has not", func(ctx context.Context, c *redis.Client, n int) error {
		return fill(ctx, c, n, func(p redis.Pipeliner, i int) { p.Set(ctx, key("cold", i), value, 0) })
	}, func(ctx context.Context, c *redis.Client, i int) error { return c.Get(ctx, key("cold", i)).Err() }},
	{"`SET`", nil, func(ctx context.Context, c *redis.Client, i int) error {
		return c.Set(ctx, key("set", i%1000), value, 0).Err()
	}},
	{"`DEL`", nil, func(ctx context.Context, c *redis.Client, i int) error { return c.Del(ctx, key("set", i%1000)).Err() }},
	{"`INCR`", nil, func(ctx context.Context, c *redis.Client, _ int) error { return c.Incr(ctx, "latency:counter").Err() }},
	{"`HGET`", func(ctx context.Context, c *redis.Client, _ int) error {
		return c.HSet(ctx, "latency:hash", "field", value).Err()
	}, func(ctx context.Context, c *redis.Client, _ int) error {
		return c.HGet(ctx, "latency:hash", "field").Err()
	}},
	{"`LPUSH`", nil, func(ctx context.Context, c *redis.Client, _ int) error {
		return c.LPush(ctx, "latency:list", "v").Err()
	}},
	{"`MULTI`, three `SET`s, `EXEC`", nil, func(ctx context.Context, c *redis.Client, i int) error {
		_, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
			for j := range 3 {
				p.Set(ctx, key("tx", (3*i+j)%1000), value, 0)
			}
			return nil
		})
		return err
	}},
	{"`PUBLISH`", nil, func(ctx context.Context, c *redis.Client, _ int) error {
		return c.Publish(ctx, "latency:channel", "m").Err()
	}},
}

// fill does something n times in pipelines.
func fill(ctx context.Context, c *redis.Client, n int, do func(p redis.Pipeliner, i int)) error {
	for begin := 0; begin < n; begin += 1000 {
		if _, err := c.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i := begin; i < min(begin+1000, n); i++ {
				do(p, i)
			}
			return nil
		}); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	log.SetFlags(0)
	redisAt := flag.String("redis", "127.0.0.1:6379", "Redis")
	proxyAt := flag.String("proxy", "127.0.0.1:9998", "the proxy before it")
	n := flag.Int("n", 20_000, "commands of each kind, to each of the two")
	flag.Parse()
	if *n < 10*turn {
		log.Fatalf("latency: -n is %d: must be %d at least, or a percentile says nothing", *n, 10*turn)
	}
	ctx := context.Background()
	connect := func(addr string) *redis.Client {
		return redis.NewClient(&redis.Options{Addr: addr, PoolSize: 1, MaxRetries: -1, DisableIdentity: true})
	}
	bare, proxied := connect(*redisAt), connect(*proxyAt)
	defer bare.Close()
	defer proxied.Close()
	fmt.Println("| command | Redis: median | p99 | proxy: median | p99 | added: median | p99 |")
	fmt.Println("|---|---:|---:|---:|---:|---:|---:|")
	for _, k := range kinds {
		if err := k.measure(ctx, bare, proxied, *n); err != nil {
			log.Fatalf("latency: %s: %v", k.name, err)
		}
	}
	if err := clean(ctx, bare); err != nil {
		log.Fatalf("latency: keys with the prefix latency: were left: %v", err)
	}
}

// measure prints a row.
func (k kind) measure(ctx context.Context, bare, proxied *redis.Client, n int) error {
	if k.prepare != nil {
		if err := k.prepare(ctx, bare, n+turn); err != nil {
			return err
		}
	}
	for i := range turn { // connections, scripts, memory
		for _, c := range []*redis.Client{bare, proxied} {
			if err := k.command(ctx, c, n+i); err != nil {
				return err
			}
		}
	}
	of := map[*redis.Client][]time.Duration{}
	for begin := 0; begin < n; begin += turn {
		for _, c := range []*redis.Client{bare, proxied} {
			for i := begin; i < begin+turn; i++ {
				start := time.Now()
				err := k.command(ctx, c, i)
				of[c] = append(of[c], time.Since(start))
				if err != nil {
					return err
				}
			}
		}
	}
	r, p := of[bare], of[proxied]
	fmt.Printf("| %s | %s | %s | %s | %s | %s | %s |\n", k.name, micros(at(r, 0.5)), micros(at(r, 0.99)), micros(at(p, 0.5)), micros(at(p, 0.99)),
		micros(at(p, 0.5)-at(r, 0.5)), micros(at(p, 0.99)-at(r, 0.99)))
	return nil
}

// at is a quantile, which it sorts for.
func at(all []time.Duration, q float64) time.Duration {
	slices.Sort(all)
	return all[int(q*float64(len(all)-1))]
}

func micros(d time.Duration) string {
	return fmt.Sprintf("%d µs", d.Round(time.Microsecond).Microseconds())
}

func clean(ctx context.Context, c *redis.Client) error {
	keys := c.Scan(ctx, 0, "latency:*", 1000).Iterator()
	for keys.Next(ctx) {
		if err := c.Del(ctx, keys.Val()).Err(); err != nil {
			return err
		}
	}
	return keys.Err()
}

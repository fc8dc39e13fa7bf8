package bench

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/rueidis"
)

// TTL is of every key: long enough for a measurement, short enough to leave nothing behind in
// somebody's Redis.
const TTL = 3 * time.Minute

// User is the value that all benchmarks use. It has no pointer, slice or map. As JSON it has about
// 200 bytes.
type User struct {
	ID      int64   `json:"id"`
	Name    string  `json:"name"`
	Email   string  `json:"email"`
	City    string  `json:"city"`
	Phone   string  `json:"phone"`
	Plan    string  `json:"plan"`
	Balance float64 `json:"balance"`
	Logins  int     `json:"logins"`
	Active  bool    `json:"active"`
	Created int64   `json:"created"`
}

// NewUser makes the i-th.
func NewUser(i int) User {
	n := strconv.Itoa(i)
	return User{
		ID: int64(i), Name: "Ada Lovelace the " + n + "th", Email: "ada." + n + "@analytical.example", City: "Ockham, Surrey",
		Phone: "+44 20 7946 0958", Plan: "enterprise", Balance: float64(i) + 0.25, Logins: i % 1000, Active: true, Created: 1_700_000_000,
	}
}

// Encode is what a typed wrapper does with a value, with encoding/json.
func Encode(u User) string {
	b, err := json.Marshal(&u)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// Decode is what a typed wrapper does with what is stored.
func Decode(s string) (u User, err error) {
	err = json.Unmarshal([]byte(s), &u)
	return u, err
}

var run = rand.Text()[:8]

// Key is the i-th of what. Two runs have no key in common.
func Key(what string, i int) string { return "bench:" + run + ":" + what + ":" + strconv.Itoa(i) }

var series int

// Keys makes n that nobody has used before.
func Keys(n int) []string {
	series++
	keys := make([]string, n)
	for i := range keys {
		keys[i] = Key(strconv.Itoa(series), i)
	}
	return keys
}

const chunk = 2000

// Prefill stores a user under each key, by way of a client that nobody measures.
func Prefill(tb testing.TB, keys []string) {
	tb.Helper()
	Each(tb, keys, func(b rueidis.Builder, i int, key string) rueidis.Completed {
		return b.Set().Key(key).Value(Encode(NewUser(i))).Px(TTL).Build()
	})
}

// Remove deletes keys, so that the server's memory does not grow from one measurement to the next.
func Remove(tb testing.TB, keys []string) {
	tb.Helper()
	Each(tb, keys, func(b rueidis.Builder, _ int, key string) rueidis.Completed { return b.Unlink().Key(key).Build() })
}

// Each sends a command for each key, by way of a client that nobody measures.
func Each(tb testing.TB, keys []string, command func(b rueidis.Builder, i int, key string) rueidis.Completed) {
	tb.Helper()
	redis := Redis(tb)
	defer redis.Close()
	for from := 0; from < len(keys); from += chunk {
		var commands []rueidis.Completed
		for i := from; i < min(from+chunk, len(keys)); i++ {
			commands = append(commands, command(redis.B(), i, keys[i]))
		}
		for _, r := range redis.DoMulti(context.Background(), commands...) {
			if err := r.Error(); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// Redis is a plain client with rueidis's defaults. Close it.
func Redis(tb testing.TB) rueidis.Client {
	tb.Helper()
	return RedisAt(tb, Addr())
}

// RedisAt is the same for another address, a proxy's.
func RedisAt(tb testing.TB, addr string) rueidis.Client {
	tb.Helper()
	redis, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}})
	if err != nil {
		tb.Fatal(fmt.Errorf("redis at %s: %w", addr, err))
	}
	return redis
}

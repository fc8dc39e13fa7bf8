package dbtest

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/rueidis"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidesql"
	"github.com/redaside/aside/internal/harness"
	"github.com/redaside/aside/internal/redistest"
)

var kills = flag.Int("kills", 25, "how often a writer is killed, for each kind of database")

func redisAt(addr string) rueidis.ClientOption {
	return rueidis.ClientOption{InitAddress: []string{addr}}
}

// A writer changes prices and deletes them from the cache, and is killed with SIGKILL at a random
// moment, most often between COMMIT and Del. Meanwhile a reader fills the cache, and a relay in
// another process does what the writer has not. Then what the cache holds is what the database says.
func TestAKillBetweenCommitAndDelLosesNothing(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db database) {
		redis := redistest.Start(t)
		client := harness.NewClient(t, redis.Addr())
		checker := harness.NewClient(t, redis.Addr(), harness.Untracked)
		box := newBox(t, db, client, func(o *asidesql.Options) { o.Lease = 100 * time.Millisecond })
		relay(t, box)
		for i := range prices {
			db.exec(t, fmt.Sprintf("INSERT INTO prices (id, cents) VALUES ('%s', 0)", priceKey(i)))
		}
		reading, stop := context.WithCancel(context.Background())
		read := make(chan struct{})
		go func() { // ends with stop
			defer close(read)
			for i := 0; reading.Err() == nil; i++ {
				_, _ = client.Get(reading, time.Minute, priceKey(i%prices), db.load)
			}
		}()
		defer func() { stop(); <-read }()

		between, committed := 0, 0
		for range *kills {
			n, left := killWriter(t, db, redis.Addr(), "outbox")
			committed += n
			if left {
				between++
			}
			eventually(t, "the table is empty", func() bool { return db.count(t) == 0 })
			if lost := stale(t, db, checker); len(lost) > 0 {
				t.Fatalf("the cache holds what the database does not: %v", lost)
			}
		}
		t.Logf("%d kills, %d of them between COMMIT and Del; %d transactions committed, 0 invalidations lost", *kills, between, committed)
		require.NotZero(t, between, "no kill has hit the moment that this is about")
	})
}

// Without the outbox the same kill does what README's limits say: this shows that the test above
// would find it.
func TestWithoutAnOutboxAKillLosesTheDel(t *testing.T) {
	db := openSQLite(t)
	redis := redistest.Start(t)
	checker := harness.NewClient(t, redis.Addr(), harness.Untracked)
	for i := range prices {
		db.exec(t, fmt.Sprintf("INSERT INTO prices (id, cents) VALUES ('%s', 0)", priceKey(i)))
	}
	eventually(t, "a Del is lost", func() bool {
		for i := range prices {
			_, err := checker.Get(harness.Context(t), time.Minute, priceKey(i), db.load)
			require.NoError(t, err)
		}
		killWriter(t, db, redis.Addr(), "del")
		return len(stale(t, db, checker)) > 0
	})
}

const prices = 8

func priceKey(i int) string { return fmt.Sprint("price:", i) }

func (d database) load(ctx context.Context, key string) (string, error) {
	var cents int
	err := d.QueryRowContext(ctx, "SELECT cents FROM prices WHERE id = '"+key+"'").Scan(&cents)
	return strconv.Itoa(cents), err
}

// stale are the keys under which Redis has something else than the database.
func stale(t testing.TB, db database, checker *aside.Client) (keys []string) {
	t.Helper()
	ctx := harness.Context(t)
	for i := range prices {
		key := priceKey(i)
		want, err := db.load(ctx, key)
		require.NoError(t, err)
		got, found, err := checker.Peek(ctx, key)
		require.True(t, err == nil || errors.Is(err, aside.ErrNotFound), "%v", err)
		if found && got != want {
			keys = append(keys, fmt.Sprintf("%s: %s instead of %s", key, got, want))
		}
	}
	return keys
}

// killWriter runs a writer and kills it. It returns how many commits that has reported, and whether
// it has left rows in the outbox.
func killWriter(t testing.TB, db database, redis, how string) (commits int, left bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "ASIDESQL_WRITER="+how, "ASIDESQL_DIALECT="+strconv.Itoa(int(db.dialect)), "ASIDESQL_DRIVER="+db.driver, "ASIDESQL_DSN="+db.dsn, "ASIDESQL_REDIS="+redis)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	goal := 1 + rand.IntN(20)
	for commits < goal && lines.Scan() {
		require.Equal(t, "committed", lines.Text(), strings.Repeat("-", 20))
		commits++
	}
	require.Equal(t, goal, commits, "the writer ended by itself: %v", lines.Err())
	if rand.IntN(4) == 0 {
		time.Sleep(rand.N(3 * time.Millisecond)) // anywhere
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	return commits, db.count(t) > 0
}

// write is the writer. It never returns.
func write() {
	ctx := context.Background()
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "writer:", err)
			os.Exit(1)
		}
	}
	dialect, err := strconv.Atoi(os.Getenv("ASIDESQL_DIALECT"))
	must(err)
	db, err := sql.Open(os.Getenv("ASIDESQL_DRIVER"), os.Getenv("ASIDESQL_DSN"))
	must(err)
	client, err := aside.New(aside.Options{Redis: redisAt(os.Getenv("ASIDESQL_REDIS")), RequireRedis: true, ConnectTimeout: harness.Patience, RedisTimeout: 2 * time.Second, LockTTL: 10 * time.Second, Logger: harness.Quiet})
	must(err)
	box, err := asidesql.New(db, client, asidesql.Options{Dialect: asidesql.Dialect(dialect), Lease: 100 * time.Millisecond})
	must(err)
	for n := 0; ; n++ {
		key := priceKey(rand.IntN(prices))
		tx, err := db.BeginTx(ctx, nil)
		must(err)
		_, err = tx.ExecContext(ctx, "UPDATE prices SET cents = cents + 1 WHERE id = '"+key+"'")
		must(err)
		change := box.Within(tx)
		inOutbox := os.Getenv("ASIDESQL_WRITER") == "outbox"
		relayed := n%2 == 1
		switch {
		case inOutbox && relayed:
			must(box.Del(ctx, tx, key))
		case inOutbox:
			must(change.Del(ctx, key))
		}
		must(tx.Commit())
		fmt.Println("committed")
		time.Sleep(rand.N(2 * time.Millisecond)) // the moment that this is about
		if !inOutbox {
			must(client.Del(ctx, key))
		}
		_ = change.Committed(ctx) // if not, the relay does
	}
}

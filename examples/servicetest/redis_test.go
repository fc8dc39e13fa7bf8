package servicetest

import (
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/internal/redistest" // yours: a container, or redis-server on a free port
)

// withRedis is a Client of a real Redis; it stands for one process.
func withRedis(t *testing.T, addr string) *aside.Client {
	t.Helper()
	client, err := aside.New(aside.Options{
		Redis:          rueidis.ClientOption{InitAddress: []string{addr}},
		RequireRedis:   true, // a test that finds no Redis should say so
		ConnectTimeout: 10 * time.Second,
		StoreFirst:     true, // so that a test may look into Redis itself as soon as a Get returns
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func TestTwoProcessesShareAMeasurement(t *testing.T) {
	server := redistest.Start(t)
	var station sky
	one, two := New(withRedis(t, server.Addr()), &station), New(withRedis(t, server.Addr()), &station)
	for _, service := range []*Service{one, two} {
		if _, err := service.Weather(t.Context(), "Oslo"); err != nil {
			t.Fatal(err)
		}
	}
	if n := station.asked.Load(); n != 1 {
		t.Errorf("the station was asked %d times", n)
	}
	if stored := server.Do("GET", "weather:Oslo"); stored != `{"City":"Oslo","Celsius":0}` {
		t.Errorf("in Redis is %q", stored)
	}
}

func TestTheServiceOutlivesRedis(t *testing.T) {
	server := redistest.Start(t)
	var station sky
	service := New(withRedis(t, server.Addr()), &station)
	for _, city := range []string{"Oslo", "Lima"} {
		if _, err := service.Weather(t.Context(), city); err != nil {
			t.Fatal(err)
		}
		server.Kill() // before the second one
	}
	if n := station.asked.Load(); n != 2 {
		t.Errorf("the station was asked %d times", n)
	}
}

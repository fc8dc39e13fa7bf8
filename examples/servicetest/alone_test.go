package servicetest

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/rueidis"

	"github.com/redaside/aside"
)

// sky is a Station for tests.
type sky struct {
	celsius, asked atomic.Int64
}

func (s *sky) Measure(ctx context.Context, city string) (Weather, error) {
	s.asked.Add(1)
	return Weather{City: city, Celsius: int(s.celsius.Load())}, ctx.Err()
}

// alone is a Client that never reaches a Redis and asks no network: as in an outage, it serves what
// is in memory and calls loaders. DegradedTTL: -1 lets values live to their ttl. A Set or Del is
// kept in the directory, for a replay that never comes; without one it would return ErrNotDurable,
// and Close an error that says how many were lost.
func alone(t *testing.T) *aside.Client {
	t.Helper()
	client, err := aside.New(aside.Options{
		ClientBuilder: func(rueidis.ClientOption) (rueidis.Client, error) { return nil, errors.New("no Redis in this test") },
		FallbackDir:   t.TempDir(),
		DegradedTTL:   -1,
		Logger:        slog.New(slog.DiscardHandler),
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

func TestTheSecondRequestIsAnsweredFromMemory(t *testing.T) {
	var station sky
	station.celsius.Store(21)
	service := New(alone(t), &station)
	for range 3 {
		got, err := service.Weather(t.Context(), "Oslo")
		if want := (Weather{"Oslo", 21}); got != want || err != nil {
			t.Fatalf("got %v, %v, want %v", got, err, want)
		}
	}
	if n := station.asked.Load(); n != 1 {
		t.Errorf("the station was asked %d times", n)
	}
}

func TestAChangeIsSeenAtOnce(t *testing.T) {
	var station sky
	service := New(alone(t), &station)
	if _, err := service.Weather(t.Context(), "Oslo"); err != nil {
		t.Fatal(err)
	}
	station.celsius.Store(5)
	if err := service.Changed(t.Context(), "Oslo"); err != nil {
		t.Fatal(err)
	}
	if got, err := service.Weather(t.Context(), "Oslo"); got.Celsius != 5 || err != nil {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAMeasurementIsGoodForAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var station sky
		service := New(alone(t), &station)
		for range 100 { // every second
			if _, err := service.Weather(t.Context(), "Oslo"); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if n := station.asked.Load(); n != 2 {
			t.Errorf("the station was asked %d times in 100 seconds", n)
		}
	})
}

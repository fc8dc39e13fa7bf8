package servicetest

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asidetest"
)

// Without a bubble: one client, on a server of its own.
func TestAMeasurementIsStored(t *testing.T) {
	var station sky
	server := asidetest.NewServer(t)
	service := New(server.Client(), &station)
	if _, err := service.Weather(t.Context(), "Oslo"); err != nil {
		t.Fatal(err)
	}
	if stored, _ := server.Get("weather:Oslo"); stored != `{"City":"Oslo","Celsius":0}` {
		t.Errorf("in Redis is %q", stored)
	}
	if n := server.Loads("weather:Oslo"); n != 1 {
		t.Errorf("it was loaded %d times", n)
	}
}

// In a bubble: two processes, and what one of them changes while Redis is away.
func TestAChangeDuringAnOutageReachesOtherProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var station sky
		server := asidetest.NewServer(t)
		here, there := server.Client(), server.Client()
		for _, client := range []*aside.Client{here, there} {
			if _, err := New(client, &station).Weather(t.Context(), "Oslo"); err != nil {
				t.Fatal(err)
			}
		}

		server.Down()
		time.Sleep(time.Second) // until they know
		station.celsius.Store(5)
		if err := New(here, &station).Changed(t.Context(), "Oslo"); err != nil {
			t.Fatal(err)
		}
		if kept := server.Records(); len(kept) != 1 || kept[0].Key != "weather:Oslo" {
			t.Errorf("kept for replay: %v", kept)
		}

		server.Up()
		time.Sleep(5 * time.Second) // until it is replayed
		if kept := server.Records(); len(kept) != 0 {
			t.Errorf("still kept: %v", kept)
		}
		if got, err := New(there, &station).Weather(t.Context(), "Oslo"); got.Celsius != 5 || err != nil {
			t.Errorf("the other process got %v, %v", got, err)
		}
	})
}

// Package servicetest is a small service that uses aside, and shows in its tests how such a service
// is tested: without Redis, within testing/synctest, and with a real Redis in a container.
// docs/TESTING.md tells the rest.
package servicetest

import (
	"context"
	"time"

	"github.com/redaside/aside"
	"github.com/redaside/aside/codec"
)

// Weather is what the service is about.
type Weather struct {
	City    string
	Celsius int
}

// Station is where weather comes from. It is an interface so that tests can be the weather.
type Station interface {
	Measure(ctx context.Context, city string) (Weather, error)
}

// Service answers from its cache, else from the station. It takes the Client, and does not make it:
// so a test can give it another one.
type Service struct {
	cache   *aside.TypedClient[Weather]
	station Station
}

// How long a measurement is good for.
const goodFor = time.Minute

// New makes a service.
func New(client *aside.Client, station Station) *Service {
	return &Service{cache: aside.Typed(client, codec.JSON[Weather]()), station: station}
}

// Weather returns the weather of a city, at most a minute old.
func (s *Service) Weather(ctx context.Context, city string) (Weather, error) {
	return s.cache.Get(ctx, goodFor, "weather:"+city, func(ctx context.Context, _ string) (Weather, error) {
		return s.station.Measure(ctx, city)
	})
}

// Changed says that the weather of a city has changed.
func (s *Service) Changed(ctx context.Context, city string) error {
	return s.cache.Del(ctx, "weather:"+city)
}

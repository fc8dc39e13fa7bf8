package asideprom_test

import (
	"log"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/redis/rueidis"

	"github.com/redaside/aside"
	"github.com/redaside/aside/asideprom"
)

// The metrics of a service's cache beside those that it has already.
func ExampleNew() {
	durations := asideprom.NewObserver()
	client, err := aside.New(aside.Options{
		Redis:    rueidis.ClientOption{InitAddress: []string{"127.0.0.1:6379"}},
		Observer: durations,
	})
	if err != nil {
		log.Fatal(err)
	}
	prometheus.MustRegister(asideprom.New(client, asideprom.WithObserver(durations)))
	http.Handle("/metrics", promhttp.Handler())
}

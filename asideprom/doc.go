// Package asideprom has the metrics of an aside.Client for Prometheus.
//
//	durations := asideprom.NewObserver()
//	client, err := aside.New(aside.Options{Observer: durations, …})
//	registry.MustRegister(asideprom.New(client, asideprom.WithObserver(durations)))
//
// A [Collector] asks the client's Stats and Health when it is scraped: between two scrapes it costs
// nothing, whatever the client does. An [Observer] adds histograms of durations: of loads, of waits
// for another process's load, and of what Redis is asked. Without it they are left out, and the rest
// is complete.
//
// Keys are in no label. What is labeled has few values: tiers, modes, results, and the addresses of
// shards. A process with several clients registers each with a label of its own:
//
//	prometheus.WrapRegistererWith(prometheus.Labels{"cache": "sessions"}, registry).MustRegister(asideprom.New(sessions))
//
// docs/OBSERVABILITY.md has the list, with what to watch. The dashboard and the alert rules in
// monitoring/ are made of these names.
package asideprom

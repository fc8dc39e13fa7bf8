module github.com/redaside/aside/examples

go 1.26.0

require (
	github.com/redaside/aside v0.0.0
	github.com/redis/rueidis v1.0.79
	go.etcd.io/bbolt v1.5.0
)

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/maypok86/otter/v2 v2.4.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

replace github.com/redaside/aside => ../

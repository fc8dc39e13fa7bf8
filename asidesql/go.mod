module github.com/redaside/aside/asidesql

go 1.26.0

// On main this is the code beside it; a release requires the version of the same tag instead (scripts/release).
replace github.com/redaside/aside => ../

require github.com/redaside/aside v0.0.0

require (
	github.com/google/uuid v1.6.0 // indirect
	github.com/maypok86/otter/v2 v2.4.0 // indirect
	github.com/redis/rueidis v1.0.79 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)

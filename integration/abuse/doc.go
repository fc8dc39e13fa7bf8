// Package abuse treats a running proxy badly, on both of its ports, while others use it:
//
//	go test -C integration ./abuse                                5 seconds, 1,000 idle connections
//	go test -C integration ./abuse -for=60s -idle=10000           what the project asks for; also make abuse
//
// Connections that never say anything, requests that are never finished, answers that are never
// read, headers and lengths without an end, and random bytes. Well-behaved clients must get right
// answers all the time, the process must live, and afterwards it must have as many goroutines and
// descriptors as before.
package abuse

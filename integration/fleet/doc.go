// Package fleet measures what many clients cost a Redis. Several processes of its own hold them:
//
//	go test -C integration ./fleet                 10 clients, and what must hold at any speed
//	make fleet-measure                             10, 100 and 1,000 clients; writes docs/SCALING.md and
//	                                               internal/fleet/measured.json, by which make fleet simulates
//
// Costs of the server are its CPU time and its memory, and its own counts of commands, so that they
// do not depend on how busy the machine is otherwise.
package fleet

//go:build race

package faults_test

// The race detector makes everything several times slower.
func init() { slowdown = 4 }

// Package transactions shows in which order a service changes its database and tells its cache.
// Each rule of docs/DATABASE.md is a test here, with the order that goes wrong beside the one that
// is right, on a real database (bbolt) and a real Redis:
//
//	go test -v ./transactions
package transactions

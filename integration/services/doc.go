// Package services runs the library within other people's servers, as real services do.
package services

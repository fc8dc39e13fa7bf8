// Package codectest is the contract of [codec.Codec] as a test suite. Run it over a codec of your
// own:
//
//	func TestMyCodec(t *testing.T) {
//		codectest.Run(t, MyCodec{}, []Thing{{}, {Name: "a"}, {Tags: map[string][]string{"x": {"y"}}}})
//	}
//
// Every failure says which rule was broken and what goes wrong in a cache where it is. Run it with
// the race detector too: some mistakes of concurrency show only there.
package codectest

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/redaside/aside/codec"
)

// Run checks that c keeps the rules of [codec.Codec], each in a subtest of its own. values are
// encoded and decoded: pass at least one, and best all shapes that T has: zero, full, nested, nil
// and empty. They are not changed. If the codec does not distinguish some values (Bytes: nil and
// empty), pass an Equal that does not either.
//
// It makes some thousand calls for each value and takes well under a second for values of a few
// hundred bytes. Its random choices are the same in every run.
func Run[T any](t *testing.T, c codec.Codec[T], values []T, opts ...Option[T]) {
	t.Helper()
	contract(subtests{t}, c, values, opts)
}

// Option changes how [Run] handles values of T.
type Option[T any] func(*suite[T])

// Equal reports whether two values are the same. Defaults to reflect.DeepEqual, which is too strict
// for protobuf messages (use proto.Equal) and for times in local time (use their Equal method).
func Equal[T any](equal func(a, b T) bool) Option[T] {
	return func(s *suite[T]) { s.equal = equal }
}

// Mutate changes everything in a value that can be changed through it, and reports whether there
// was anything. Defaults to doing so by reflection through pointers, slices, maps and interfaces,
// which does not reach into unexported fields: give your own where T keeps slices, maps or pointers
// there.
func Mutate[T any](mutate func(*T) bool) Option[T] {
	return func(s *suite[T]) { s.mutate = mutate }
}

// reporter is what the suite needs of a *testing.T; a fake of it shows that the suite can fail.
type reporter interface {
	Helper()
	Errorf(format string, args ...any)
	Run(name string, f func(reporter)) bool // false if f reported an error
}

type subtests struct{ *testing.T }

func (s subtests) Run(name string, f func(reporter)) bool {
	s.Helper()
	return s.T.Run(name, func(t *testing.T) { t.Helper(); f(subtests{t}) })
}

// suite is what the checks are made with.
type suite[T any] struct {
	codec  codec.Codec[T]
	values []T // what the codec is given
	want   []T // copies of them, which it never sees
	equal  func(a, b T) bool
	mutate func(*T) bool
	rand   *rand.Rand // see newRand
}

// check is one rule.
type check[T any] struct {
	name string                // what holds
	why  string                // what goes wrong in a cache where it does not
	run  func(*suite[T]) error // nil if it holds
}

// checks are in the order in which a codec should be repaired.
func checks[T any]() []check[T] {
	return []check[T]{
		{
			"what is encoded decodes to an equal value",
			"Get would return something else than the loader did.",
			(*suite[T]).roundTrip,
		},
		{
			"Encode does not change its value",
			"Other goroutines may be reading it: all callers who waited for a load get the same one.",
			(*suite[T]).encodeOnlyReads,
		},
		{
			"each encoding stands alone",
			"Values are read in any order, many times, by processes that have not seen the others, and two encoders may have written them. " +
				"An encoding must not depend on what was encoded before it, and must not change when something else is encoded.",
			(*suite[T]).standsAlone,
		},
		{
			"decoded values share no mutable memory",
			"What Get returns is the caller's to change. One that sorts its slice would change it for every other caller, " +
				"and for the cache.",
			(*suite[T]).decodedApart,
		},
		{
			"what a Fresher decodes refers to nothing that was there before",
			"A view that knows the codec to be fresh decodes a value once and copies it for each caller. A pointer to something shared " +
				"would be another pointer in the copy.",
			(*suite[T]).decodesFresh,
		},
		{
			"a clone equals its value and shares no mutable memory with it",
			"A view gives each caller a clone of one decoded value.",
			(*suite[T]).clonesApart,
		},
		{
			"a value of which RoundTrips is true comes back as it was",
			"A view keeps a copy of such a value for callers, and does not decode it; other processes do.",
			(*suite[T]).roundTrips,
		},
		{
			"Encode does not retain its value",
			"The loader's value is the caller's again once it is encoded. Changing it must not change what is cached.",
			(*suite[T]).encodeLetsGo,
		},
		{
			"Decode survives any bytes",
			"What is in Redis may be damaged, cut short, or written by another version. An error is a miss and the value is loaded " +
				"again; a panic ends the process of whoever reads the key, again and again.",
			(*suite[T]).anyBytes,
		},
		{
			"a truncated encoding is an error or a valid value",
			"Half a value that decodes but cannot be encoded again is neither: it breaks where it is used, far from its cause.",
			(*suite[T]).truncated,
		},
		{
			"concurrent use gives the same as use one by one",
			"One codec serves all goroutines of the process.",
			(*suite[T]).concurrent,
		},
	}
}

// contract makes all checks. It stops at the first that fails: what is wrong there makes most
// others fail too, only less legibly, and a codec that fails alone is not asked to fail
// concurrently.
func contract[T any](t reporter, c codec.Codec[T], values []T, opts []Option[T]) {
	t.Helper()
	if len(values) == 0 {
		t.Errorf("codectest.Run: no values: give at least one to encode")
		return
	}
	s := &suite[T]{
		codec:  c,
		values: values,
		equal:  func(a, b T) bool { return reflect.DeepEqual(a, b) },
		mutate: func(v *T) bool { return mutate(reflect.ValueOf(v).Elem()) },
	}
	for _, o := range opts {
		o(s)
	}
	for _, v := range values {
		want := deepCopy(reflect.ValueOf(&v).Elem()).Interface
		s.want = append(s.want, v)
		if copied, ok := want().(T); ok && s.equal(copied, v) { // else it has parts that only its own package can copy
			s.want[len(s.want)-1] = copied
		}
	}
	for _, check := range checks[T]() {
		ok := t.Run(check.name, func(t reporter) {
			t.Helper()
			s.rand = newRand() // for each check anew, so that it does the same when it is run alone
			if err := check.run(s); err != nil {
				t.Errorf("%v\n\nThe rule: %s.\nWhy: %s", err, check.name, check.why)
			}
		})
		if !ok {
			return
		}
	}
}

// newRand returns what makes the suite's choices. Seeded the same for each check: a failure comes
// back.
func newRand() *rand.Rand { return rand.New(rand.NewPCG(1, 2)) }

package codectest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// encode and decode call the codec so that a panic, and a change of what was passed, is an error
// like any other.

func (s *suite[T]) encode(v T) (enc string, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("Encode panicked: %v", p)
		}
	}()
	return s.codec.Encode(v)
}

var errChangedInput = errors.New("Decode changed the string that it was given")

// decode returns fatal where a rule was broken, and err where the codec refused the bytes, which it
// may.
func (s *suite[T]) decode(enc string) (v T, err, fatal error) {
	// A copy in memory of its own: a codec that writes to its input would crash the test on a
	// constant, and spoil enc otherwise.
	input := strings.Clone(enc)
	defer func() {
		if p := recover(); p != nil {
			fatal = fmt.Errorf("Decode panicked on %s: %v", quote(enc), p)
		} else if input != enc {
			fatal = fmt.Errorf("%w: %s became %s", errChangedInput, quote(enc), quote(input))
		}
	}()
	v, err = s.codec.Decode(input)
	return v, err, nil
}

// expect decodes enc and compares what comes back.
func (s *suite[T]) expect(want T, enc string) error {
	got, err, fatal := s.decode(enc)
	switch {
	case fatal != nil:
		return fatal
	case err != nil:
		return fmt.Errorf("Decode refused what Encode wrote, %s: %w", quote(enc), err)
	case !s.equal(got, want):
		return fmt.Errorf("decoded a different value from %s\n got: %+v\nwant: %+v\n"+
			"(if they are equal in your eyes, pass codectest.Equal)", quote(enc), got, want)
	}
	return nil
}

// private returns a copy of a value that the codec itself made, so that the test may change it.
func (s *suite[T]) private(v T) (T, error) {
	enc, err := s.encode(v)
	if err != nil {
		return v, err
	}
	copied, err, fatal := s.decode(enc)
	return copied, errors.Join(err, fatal)
}

func (s *suite[T]) roundTrip() error {
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		if err := s.expect(v, enc); err != nil {
			return fmt.Errorf("values[%d]: %w", i, err)
		}
	}
	return nil
}

func (s *suite[T]) encodeOnlyReads() error {
	for i, v := range s.values {
		if _, err := s.encode(v); err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		if !s.equal(v, s.want[i]) {
			return fmt.Errorf("values[%d]: Encode changed the value that it was given\n now: %+v\n was: %+v", i, v, s.want[i])
		}
	}
	return nil
}

func (s *suite[T]) standsAlone() error {
	type encoded struct {
		value     int
		enc, copy string
	}
	var all []encoded
	for range 2 { // twice, so that the second encoding of a value is checked too
		for i, v := range s.values {
			enc, err := s.encode(v)
			if err != nil {
				return fmt.Errorf("values[%d]: Encode the second time: %w", i, err)
			}
			all = append(all, encoded{i, enc, strings.Clone(enc)})
		}
	}
	for _, e := range all {
		if e.enc != e.copy {
			return fmt.Errorf("values[%d]: its encoding changed when others were encoded: %s became %s", e.value, quote(e.copy), quote(e.enc))
		}
	}
	forth := slices.Clone(all)
	slices.Reverse(all)
	all = append(all, forth...) // backwards, then forwards
	var decoded []T
	for _, e := range all {
		if err := s.expect(s.want[e.value], e.enc); err != nil {
			return fmt.Errorf("values[%d], decoded in another order than it was encoded: %w", e.value, err)
		}
		v, err, fatal := s.decode(e.enc)
		if err := errors.Join(err, fatal); err != nil {
			return fmt.Errorf("values[%d], decoded once more: %w", e.value, err)
		}
		decoded = append(decoded, v)
	}
	for n, e := range all {
		if !s.equal(decoded[n], s.want[e.value]) {
			return fmt.Errorf("values[%d]: what was decoded changed when others were decoded\n now: %+v\n was: %+v", e.value, decoded[n], s.want[e.value])
		}
	}
	return nil
}

func (s *suite[T]) decodedApart() error {
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		ours, err1, fatal1 := s.decode(enc)
		theirs, err2, fatal2 := s.decode(enc)
		if err := errors.Join(err1, fatal1, err2, fatal2); err != nil {
			return fmt.Errorf("values[%d]: Decode: %w", i, err)
		}
		if !s.mutate(&ours) {
			continue // nothing in it can be changed through it
		}
		if s.equal(ours, s.want[i]) {
			return fmt.Errorf("values[%d]: what was decoded was changed, and is still equal to what was encoded: "+
				"they are the same memory (or your Equal, if you gave one, does not look at it)", i)
		}
		if !s.equal(theirs, s.want[i]) {
			return fmt.Errorf("values[%d]: changing one decoded value changed another\n now: %+v\n was: %+v", i, theirs, s.want[i])
		}
		if err := s.expect(s.want[i], enc); err != nil {
			return fmt.Errorf("values[%d]: changing a decoded value changed what is decoded after it: %w", i, err)
		}
	}
	return nil
}

func (s *suite[T]) encodeLetsGo() error {
	for i, v := range s.values {
		ours, err := s.private(v)
		if err != nil {
			return fmt.Errorf("values[%d]: %w", i, err)
		}
		enc, err := s.encode(ours)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode of a decoded value: %w", i, err)
		}
		before := strings.Clone(enc)
		s.mutate(&ours)
		if enc != before {
			return fmt.Errorf("values[%d]: changing the value changed its encoding: %s became %s", i, quote(before), quote(enc))
		}
		if err := s.expect(s.want[i], enc); err != nil {
			return fmt.Errorf("values[%d]: changing the value after it was encoded changed what is decoded: %w", i, err)
		}
	}
	return nil
}

func (s *suite[T]) anyBytes() error {
	try := func(enc string) error {
		_, _, fatal := s.decode(enc)
		return fatal
	}
	for _, junk := range corpus() {
		if err := try(junk); err != nil {
			return err
		}
	}
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		for damaged := range damage(s.rand, enc) {
			if err := try(damaged); err != nil {
				return fmt.Errorf("values[%d], damaged: %w", i, err)
			}
		}
		if err := s.expect(s.want[i], enc); err != nil {
			return fmt.Errorf("values[%d], intact, after damaged ones were refused: %w", i, err)
		}
	}
	return nil
}

func (s *suite[T]) truncated() error {
	for i, v := range s.values {
		enc, err := s.encode(v)
		if err != nil {
			return fmt.Errorf("values[%d]: Encode: %w", i, err)
		}
		for _, n := range positions(s.rand, len(enc)) {
			half, err, fatal := s.decode(enc[:n])
			if fatal != nil {
				return fmt.Errorf("values[%d], cut to %d bytes of %d: %w", i, n, len(enc), fatal)
			}
			if err != nil {
				continue
			}
			if _, err := s.encode(half); err != nil {
				return fmt.Errorf("values[%d], cut to %d bytes of %d, decodes to a value that cannot be encoded: %w", i, n, len(enc), err)
			}
		}
	}
	return nil
}

// concurrent has each goroutine go round all values from another beginning, so that different
// values meet.
func (s *suite[T]) concurrent() error {
	const goroutines, rounds = 8, 50
	errs := make([]error, goroutines)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() { // ends after its rounds
			<-start
			for r := range rounds {
				i := (g + r) % len(s.values)
				enc, err := s.encode(s.values[i])
				if err == nil {
					err = s.expect(s.want[i], enc)
				}
				if err != nil {
					errs[g] = fmt.Errorf("values[%d], while others use the codec: %w", i, err)
					return
				}
			}
		})
	}
	close(start)
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err // one is enough: they tend to be the same
		}
	}
	return nil
}

// quote shows bytes in an error, and of many only the beginning.
func quote(s string) string {
	const most = 120
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

package codec

import "fmt"

// A view keeps a decoded value in memory and gives each caller a copy of it, where it knows how to
// make one. These three interfaces, which a codec may implement beside [Codec], are how it knows;
// [Fresh] is for codecs that do not. They change nothing about what callers get.

// Fresher is implemented by a codec that can say more than the rules of [Codec] do: Decode makes
// all that its result refers to. The rules permit a pointer to something that is shared and never
// changes (a currency in a table of them), and a copy would have another pointer. DecodesFresh
// reports whether there is no such pointer; types with a decoding method of their own are not the
// codec's matter.
type Fresher interface{ DecodesFresh() bool }

// Cloner is implemented by a codec of values that only it can copy. Clone returns what Decode would
// for the encoding of v: an equal value that shares no mutable memory with v. It does not change v,
// which others may be reading, and cannot fail.
type Cloner[T any] interface{ Clone(v T) T }

// Wrapper is implemented by a codec that changes the bytes of another one: what that knows about
// copies holds for both.
type Wrapper[T any] interface{ Unwrap() Codec[T] }

// Fresh promises of c what [Fresher] says, for a codec of functions (see [Func]) or one that
// somebody else wrote:
//
//	codec.Fresh(codec.Func(encode, decode))
//
// A nil c stays nil.
func Fresh[T any](c Codec[T]) Codec[T] {
	if c == nil {
		return nil
	}
	return freshCodec[T]{c}
}

type freshCodec[T any] struct{ Codec[T] }

func (freshCodec[T]) DecodesFresh() bool { return true }

// Unwrap returns the codec that the promise is about, which may be a Cloner.
func (c freshCodec[T]) Unwrap() Codec[T] { return c.Codec }

// String is the name of the codec that the promise is about.
func (c freshCodec[T]) String() string {
	if named, ok := c.Codec.(fmt.Stringer); ok {
		return named.String()
	}
	return fmt.Sprintf("%T", c.Codec)
}

// IsFresh reports whether all that a result of c.Decode refers to was made for it: see [Fresher].
func IsFresh[T any](c Codec[T]) bool {
	for range wrappers {
		if f, ok := c.(Fresher); ok {
			return f.DecodesFresh()
		}
		w, ok := c.(Wrapper[T])
		if !ok {
			return false
		}
		c = w.Unwrap()
	}
	return false
}

// ClonerOf returns the [Cloner] that c is or wraps, or nil.
func ClonerOf[T any](c Codec[T]) Cloner[T] {
	for range wrappers {
		if cloner, ok := c.(Cloner[T]); ok {
			return cloner
		}
		w, ok := c.(Wrapper[T])
		if !ok {
			return nil
		}
		c = w.Unwrap()
	}
	return nil
}

// wrappers is how many codecs around another one are looked through: one that wraps itself must not
// hold anybody up.
const wrappers = 16

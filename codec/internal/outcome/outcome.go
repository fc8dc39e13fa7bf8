// Package outcome ends the methods of the codecs in one way.
package outcome

import "fmt"

// Settle is to be deferred, with pointers to the method's two results. A panic becomes an error:
// gob panics on a nil pointer, and a type's own methods (UnmarshalJSON, GobDecode, …) may panic on
// bytes that they did not expect, which is not worth a process. An error is given its name, "aside:
// <doing>: …", and the zero value to go with it, so that nobody uses what is half decoded.
func Settle[T any](doing string, v *T, err *error) {
	switch p := recover().(type) {
	case nil:
	case error:
		*err = fmt.Errorf("panic: %w", p)
	default:
		*err = fmt.Errorf("panic: %v", p)
	}
	if *err != nil {
		*v = *new(T)
		*err = fmt.Errorf("aside: %s: %w", doing, *err)
	}
}

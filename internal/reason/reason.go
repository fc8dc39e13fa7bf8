// Package reason makes an error part of another one's sentence.
package reason

import (
	"errors"
	"strings"
)

const prefix = "aside: "

// Of returns err as the reason within another error: its text without the prefix, which the whole
// has already. errors.Is and As find all that they find in err.
func Of(err error) error {
	if err == nil || !strings.HasPrefix(err.Error(), prefix) {
		return err
	}
	return bare{err}
}

type bare struct{ error }

func (b bare) Error() string { return strings.TrimPrefix(b.error.Error(), prefix) }
func (b bare) Unwrap() error { return b.error }

// Join is errors.Join in one sentence: the errors are separated by semicolons, and only the first
// has the prefix.
func Join(errs ...error) error {
	joined := errors.Join(errs...)
	several, ok := joined.(interface{ Unwrap() []error })
	switch {
	case !ok:
		return joined
	case len(several.Unwrap()) == 1:
		return several.Unwrap()[0]
	}
	return all(several.Unwrap())
}

type all []error

func (a all) Error() string {
	texts := make([]string, len(a))
	for i, err := range a {
		if texts[i] = err.Error(); i > 0 {
			texts[i] = Of(err).Error()
		}
	}
	return strings.Join(texts, "; ")
}

func (a all) Unwrap() []error { return a }

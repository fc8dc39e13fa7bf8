package ops

import (
	"errors"

	"github.com/redaside/aside/fallback"
)

const (
	fileSuffix = ".json"
	tempSuffix = ".tmp"
	maxFile    = 1 << 30 // no record takes more
)

// damageOf says what an error of fallback.DecodeFile is to an operator.
func damageOf(err error) (kind Kind, detail string) {
	switch {
	case errors.Is(err, fallback.ErrFileTorn):
		return Torn, "a loaded value that was not written to its end"
	case errors.Is(err, fallback.ErrFileVersion):
		return Newer, err.Error()
	case errors.Is(err, fallback.ErrFileOtherKey):
		return Foreign, err.Error()
	}
	return Corrupt, err.Error()
}

package ops

import (
	"errors"

	"github.com/redaside/aside/fallback"
)

const (
	fileSuffix = ".json"
	tempSuffix = ".tmp"
)

// damageOf says what an error of fallback.DecodeFile is to an operator.
func damageOf(err error) (kind Kind, detail string) {
	switch {
	case errors.Is(err, fallback.ErrFileTorn):
		return Partial, "a loaded value that was not written to its end"
	case errors.Is(err, fallback.ErrFileEmpty):
		return Empty, err.Error()
	case errors.Is(err, fallback.ErrFileVersion):
		return Newer, err.Error()
	case errors.Is(err, fallback.ErrFileOtherKey):
		return Renamed, err.Error()
	}
	return Corrupt, err.Error()
}

package near

import (
	"time"
	"unsafe"

	"github.com/redaside/aside/internal/shape"
	"github.com/redaside/aside/internal/wire"
)

// Meta is what the header of a value says, as memory has it. Immutable once it is stored. The nil
// Meta is that of a value without a header.
type Meta struct {
	wire.Header

	Loaded int64 // when the load of the value began at the latest, in the memory's time; 0: unknown

	Clears  []Membership // in groups whose change removes the value
	Expires []Membership // in groups whose change makes it stale
}

// GraceOr is the grace that the header states, else that of the reader.
func (m *Meta) GraceOr(readers time.Duration) time.Duration {
	if m == nil || m.TTL == 0 {
		return readers
	}
	return m.Grace
}

// weight is what m takes in memory.
func (m *Meta) weight() uint32 {
	if m == nil {
		return 0
	}
	size := shape.Rounded(int(unsafe.Sizeof(*m))) + m.membershipWeight()
	for i := range m.Tags {
		size += int(unsafe.Sizeof(m.Tags[i])) + len(m.Tags[i].Name)
	}
	return uint32(size)
}

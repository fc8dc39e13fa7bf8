package aside

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/near"
	"github.com/redaside/aside/internal/wire"
)

// What memory had, and Redis no longer when the lock was taken, is not what a refresh replaces.
func TestTheOldValueIsThatWhichRedisHad(t *testing.T) {
	meta := &near.Meta{Header: wire.Header{Began: 1}}
	for _, row := range []struct {
		name  string
		old   *old
		holds string // Redis, when the lock was taken; "": there is no lock
		ok    bool
	}{
		{"the same", &old{raw: "1"}, "1", true},
		{"another", &old{raw: "1"}, "2", false},
		{"escaped", &old{raw: wire.Absent}, wire.Pack(wire.Absent), true},
		{"the same with its header", &old{raw: "1", meta: meta}, wire.PackHeader(meta.Header, "1"), true},
		{"the same with another header", &old{raw: "1", meta: meta}, "1", false},
		{"without a lock", &old{raw: "1"}, "", true},
		{"an absence", &old{absent: true}, wire.Absent, false},
		{"not at hand", nil, "1", false},
	} {
		t.Run(row.name, func(t *testing.T) {
			item := loadItem{old: row.old, refresh: &refreshItem{}}
			if row.holds != "" {
				item.refresh.print = fingerprint(row.holds)
			}
			l := &load{keys: []string{"k"}, items: []loadItem{item}}
			require.Equal(t, row.ok, Load{l, allKeys}.Stale())
			l.ended = true
			require.False(t, Load{l, allKeys}.Stale())
		})
	}
}

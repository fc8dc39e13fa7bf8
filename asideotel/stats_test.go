package asideotel

import (
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside"
)

// A number that Stats gets is exported, too.
func TestEachNumberOfStatsIsExported(t *testing.T) {
	t.Parallel()
	elsewhere := []string{"MemoryHits", "RedisHits", "DiskHits", "RedisConnected"} // aside.hits and aside.mode have them
	kind := reflect.TypeFor[aside.Stats]()
	for i := range kind.NumField() {
		var s aside.Stats
		if field := reflect.ValueOf(&s).Elem().Field(i); field.CanInt() {
			field.SetInt(7)
		}
		exported := slices.ContainsFunc(stats, func(of stat) bool { return of.get(&s) == 7 })
		require.NotEqual(t, slices.Contains(elsewhere, kind.Field(i).Name), exported, kind.Field(i).Name)
	}
}

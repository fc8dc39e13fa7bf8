package slot

import "testing"

// The expected slots are what CLUSTER KEYSLOT of Redis 7.0 answers.
func TestSlotIsWhatRedisAnswers(t *testing.T) {
	for key, want := range map[string]uint16{
		"":                     0,
		"123456789":            0x31c3,
		"foo":                  12182,
		"{user1000}.following": 3443,
		"{user1000}.followers": 3443,
		"foo{}{bar}":           8363,
		"foo{{bar}}zap":        4015,
		"foo{bar}{zap}":        5061,
	} {
		if got := Of(key); got != want {
			t.Errorf("Of(%q) = %d, want %d", key, got, want)
		}
	}
}

func TestThereIsATagForEachSlot(t *testing.T) {
	for s := range uint16(Count) {
		if key := "any{" + Tag(s) + "}thing"; Of(key) != s || len(Tag(s)) > 4 {
			t.Fatalf("%q is in slot %d, not %d", key, Of(key), s)
		}
	}
}

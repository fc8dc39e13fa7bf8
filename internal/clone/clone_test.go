package clone_test

import (
	"reflect"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/clone"
)

type address struct {
	Street string
	Lines  []string
}

type user struct {
	ID      int
	Name    string
	Tags    []string
	Home    *address
	Others  []address
	Labels  map[string]string
	ByName  map[string]*address
	Scores  []int32
	Payload []byte
	Friends []*user
}

func newUser() *user {
	return &user{
		ID: 1, Name: "Lisa", Tags: []string{"a", "b"}, Home: &address{"x", []string{"1"}}, Others: []address{{"y", []string{"2"}}, {}},
		Labels: map[string]string{"k": "v"}, ByName: map[string]*address{"n": {"z", []string{"3"}}, "nil": nil}, Scores: []int32{1, 2, 3},
		Payload: []byte("abc"), Friends: []*user{{ID: 2, Tags: []string{}}, nil},
	}
}

func TestACopyIsEqualAndSharesNothing(t *testing.T) {
	p, err := clone.For(reflect.TypeFor[user]())
	require.NoError(t, err)
	src := newUser()
	require.NoError(t, p.Check(unsafe.Pointer(src)))
	dst := clone.Copy(p, src)
	require.Equal(t, *newUser(), dst)
	dst.Tags[0], dst.Home.Lines[0], dst.Others[0].Lines[0] = "!", "!", "!"
	dst.Labels["k"], dst.ByName["n"].Lines[0], dst.Scores[0], dst.Payload[0] = "!", "!", 9, '!'
	dst.Friends[0].ID = 9
	require.Equal(t, newUser(), src)
}

type small struct {
	ID    int
	Name  string
	Email string
	Tags  []string
	Score float64
}

func BenchmarkCopy(b *testing.B) {
	b.Run("small", func(b *testing.B) {
		p, _ := clone.For(reflect.TypeFor[small]())
		src := &small{1, "Lisa Miller", "lisa@example.com", []string{"admin", "staff", "x"}, 1.5}
		b.ReportAllocs()
		for b.Loop() {
			dst := clone.Copy(p, src)
			if dst.ID != 1 {
				b.Fatal()
			}
		}
	})
	b.Run("user", func(b *testing.B) {
		p, _ := clone.For(reflect.TypeFor[user]())
		src := newUser()
		b.ReportAllocs()
		for b.Loop() {
			dst := clone.Copy(p, src)
			if dst.ID != 1 {
				b.Fatal()
			}
		}
	})
}

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

// A list of pointers, as most codecs make them, with what is behind these.
type line struct {
	Number int
	Tags   []string
	Bytes  []byte
	Sizes  []int32
	None   []struct{}
}

func newLines(n int) []*line {
	lines := make([]*line, n)
	for i := range lines {
		switch i % 5 {
		case 3: // stays nil
		case 4:
			lines[i] = &line{Number: i, Tags: []string{}, Bytes: nil, Sizes: []int32{}, None: make([]struct{}, 2)}
		default:
			lines[i] = &line{i, []string{"a", "b"}[:1+i%2], make([]byte, 1+i%3), []int32{1, 2, 3}[:1+i%3], nil}
		}
	}
	return lines
}

func TestWhatAListLeadsToIsAllocatedTogetherAndStaysApart(t *testing.T) {
	p, err := clone.For(reflect.TypeFor[[]*line]())
	require.NoError(t, err)
	src := newLines(500)
	require.NoError(t, p.Check(unsafe.Pointer(&src)))
	dst := clone.Copy(p, &src)
	require.Equal(t, src, dst)
	require.NoError(t, p.Check(unsafe.Pointer(&dst)), "no two lead to the same memory, also not behind their lengths")
	for _, l := range dst { // whoever appends to one, or changes one, does not change its neighbour
		if l != nil {
			l.Tags, l.Bytes, l.Sizes = append(l.Tags, "!"), append(l.Bytes, '!'), append(l.Sizes, 9)
			l.Number++
		}
	}
	for i, l := range dst {
		if l == nil {
			continue
		}
		was := src[i]
		require.Equal(t, line{was.Number + 1, append(append([]string{}, was.Tags...), "!"), append(append([]byte{}, was.Bytes...), '!'), append(append([]int32{}, was.Sizes...), 9), was.None}, *l)
	}
	require.Equal(t, newLines(500), src)
}

func TestAListTakesFewAllocations(t *testing.T) {
	p, err := clone.For(reflect.TypeFor[[]*line]())
	require.NoError(t, err)
	src := newLines(100) // 80 of 104 bytes, with 80 slices of strings, bytes and numbers each
	var dst []*line
	got := testing.AllocsPerRun(100, func() { dst = clone.Copy(p, &src) })
	require.Len(t, dst, 100)
	require.LessOrEqual(t, got, 60.0, "by hand it would be %d", 1+4*80)
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

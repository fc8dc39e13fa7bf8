package codec_test

import (
	"encoding/json"
	"testing"
	"unsafe"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

// user is 188 bytes as JSON.
type user struct {
	ID          int64
	Name, Email string
	Tags        []string
	Active      bool
	Score       float64
	Address     struct{ Street, City, Zip string }
}

func aUser() user {
	u := user{ID: 42, Name: "Ada Lovelace", Email: "ada@example.com", Tags: []string{"admin", "founder"}, Active: true, Score: 99.5}
	u.Address.Street, u.Address.City, u.Address.Zip = "12 St James's Square", "London", "SW1Y 4JH"
	return u
}

var (
	sinkString string
	sinkUser   user
)

// The cases named "… copy" and "… no copy" are what the codec does not do: they say what its one
// copy costs, and saves.
func BenchmarkJSON(b *testing.B) {
	c, u := codec.JSON[user](), aUser()
	s, err := c.Encode(u)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sinkString, _ = c.Encode(u)
		}
	})
	b.Run("encode, with a copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			raw, _ := json.Marshal(&u)
			sinkString = string(raw)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sinkUser, _ = c.Decode(s)
		}
	})
	b.Run("decode, without the copy", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var v user
			_ = json.Unmarshal(unsafe.Slice(unsafe.StringData(s), len(s)), &v)
			sinkUser = v
		}
	})
}

func BenchmarkGob(b *testing.B) {
	c, u := codec.Gob[user](), aUser()
	s, err := c.Encode(u)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sinkString, _ = c.Encode(u)
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			sinkUser, _ = c.Decode(s)
		}
	})
}

func BenchmarkZstd(b *testing.B) {
	one, err := codec.JSON[user]().Encode(aUser())
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []struct {
		name string
		n    int
	}{{"1 KiB", 1 << 10}, {"64 KiB", 64 << 10}, {"1 MiB", 1 << 20}} {
		plain := make([]byte, 0, size.n+len(one))
		for i := 0; len(plain) < size.n; i++ {
			plain = append(plain, one...)
			plain[len(plain)-1-i%len(one)] = byte(i) // so that it is not the same line over and over
		}
		c, v := zstd.New(codec.String(), 0), string(plain)
		s, err := c.Encode(v)
		if err != nil {
			b.Fatal(err)
		}
		b.Run(size.name+"/encode", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(v)))
			for b.Loop() {
				sinkString, _ = c.Encode(v)
			}
		})
		b.Run(size.name+"/decode", func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(len(v)))
			b.ReportMetric(float64(len(v))/float64(len(s)), "ratio")
			for b.Loop() {
				sinkString, _ = c.Decode(s)
			}
		})
		b.Run(size.name+"/copy of the compressed", func(b *testing.B) {
			for b.Loop() {
				sinkBytes = []byte(s)
			}
		})
	}
}

var sinkBytes []byte

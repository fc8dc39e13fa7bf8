package zstd_test

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	other "github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

const marker = "\x00zstd:"

var repetitive = strings.Repeat("again and again ", 100)

func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestItStores(t *testing.T) {
	for _, c := range []struct {
		name    string
		plain   string
		minSize int
		begins  string // of what is stored; "" where that is plain itself
	}{
		{"repetitive: compressed", repetitive, 0, marker + "1"},
		{"repetitive, of exactly minSize: compressed", repetitive, len(repetitive), marker + "1"},
		{"repetitive, a byte less than minSize: as it is", repetitive, len(repetitive) + 1, ""},
		{"negative minSize: every value is tried", repetitive, -1, marker + "1"},
		{"noise: does not get smaller, as it is", noise(4096), 0, ""},
		{"short: does not get smaller, as it is", "aaaaaaaaaa", 0, ""},
		{"empty: as it is", "", 0, ""},
		{"begins with the marker: escaped", marker + "1not ours", 0, marker + "0" + marker + "1not ours"},
		{"the marker itself: escaped", marker, 0, marker + "0" + marker},
		{"begins with the marker, less than minSize: escaped", marker + repetitive, math.MaxInt, marker + "0" + marker},
		{"begins with the marker, repetitive: compressed", marker + repetitive, 0, marker + "1"},
		{"part of the marker: as it is", "\x00zst", 0, ""},
		{"larger than readers expand: as it is", strings.Repeat("a", zstd.MaxDecompressed+1), 0, ""},
		{"as large as readers expand: compressed", strings.Repeat("a", zstd.MaxDecompressed), 0, marker + "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			z := zstd.New(codec.String(), c.minSize)
			stored, err := z.Encode(c.plain)
			require.NoError(t, err)
			if c.begins == "" {
				assert.True(t, stored == c.plain, "stored as it is")
			} else {
				assert.True(t, strings.HasPrefix(stored, c.begins), "stored %.40q…", stored)
			}
			got, err := z.Decode(stored)
			require.NoError(t, err)
			assert.True(t, got == c.plain, "comes back")
		})
	}
}

// What it stores is never mistaken for the client's header, and it shrinks what it is for.
func TestItShrinksJSON(t *testing.T) {
	tags := strings.Split(repetitive, " ")
	plain, err := codec.JSON[[]string]().Encode(tags)
	require.NoError(t, err)
	stored, err := zstd.New(codec.JSON[[]string](), 0).Encode(tags)
	require.NoError(t, err)
	assert.Less(t, len(stored), len(plain)/3)
	assert.False(t, strings.HasPrefix(stored, "\x00aside:"))
}

func TestItIsSwitchedOnAndOff(t *testing.T) {
	off, ready, on := codec.String(), zstd.New(codec.String(), math.MaxInt), zstd.New(codec.String(), 0)
	was, err := off.Encode(repetitive)
	require.NoError(t, err)
	is, err := on.Encode(repetitive)
	require.NoError(t, err)

	for _, c := range []codec.Codec[string]{ready, on} {
		for _, s := range []string{was, is} {
			got, err := c.Decode(s)
			require.NoError(t, err)
			assert.Equal(t, repetitive, got)
		}
	}
	written, err := ready.Encode(repetitive)
	require.NoError(t, err)
	assert.Equal(t, was, written, "the first step writes what readers without Compress understand")

	// The documented trap: why there are two steps, for codecs that accept any bytes.
	got, err := off.Decode(is)
	require.NoError(t, err)
	assert.NotEqual(t, repetitive, got)
	_, err = codec.JSON[string]().Decode(is)
	assert.Error(t, err, "others refuse, and so load")
}

func TestDecodeRefuses(t *testing.T) {
	stored, err := zstd.New(codec.String(), 0).Encode(repetitive)
	require.NoError(t, err)
	frame := func(payload string, opts ...other.EOption) string {
		enc, err := other.NewWriter(nil, append(opts, other.WithEncoderConcurrency(1))...)
		require.NoError(t, err)
		return marker + "1" + string(enc.EncodeAll([]byte(payload), nil))
	}
	// lying is a frame of 20 bytes that says that it is so large: magic, "single segment, checksum,
	// size in 4 bytes", size, nothing.
	lying := func(size uint32) string {
		return marker + "1\x28\xb5\x2f\xfd\xa4" + string(binary.LittleEndian.AppendUint32(nil, size)) + strings.Repeat("\x00", 11)
	}
	flipped := []byte(stored)
	flipped[len(flipped)-1] ^= 1 // the checksum's last byte

	for _, c := range []struct{ name, s, says string }{
		{"only the marker", marker, "unknown form"},
		{"a later form", marker + "2" + stored[7:], "unknown form"},
		{"no frame", marker + "1", "EOF"},
		{"no zstd", marker + "1 not a frame at all", "magic"},
		{"cut short", stored[:len(stored)-1], "EOF"},
		{"a bit flipped in the checksum", string(flipped), "CRC"},
		{"bytes behind", stored + "x", "EOF"},
		{"a second frame behind", stored + stored[7:], "the frame holds less or more than it says"},
		{"a frame without a checksum", frame(repetitive, other.WithEncoderCRC(false)), "no checksum"},
		{"a frame without its size", frame("short", other.WithSingleSegment(false)), "does not say its size"},
		{"a bomb", frame(strings.Repeat("a", zstd.MaxDecompressed+1)), "expands to more than 67108864 bytes"},
		{"a claim beyond the limit", lying(zstd.MaxDecompressed + 1), "expands to more than 67108864 bytes"},
		{"a claim within the limit that its bytes cannot hold", lying(zstd.MaxDecompressed), "more than its bytes can hold"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := zstd.New(codec.String(), 0).Decode(c.s)
			require.ErrorContains(t, err, "aside: decompress: ")
			require.ErrorContains(t, err, c.says)
			assert.Zero(t, got)
		})
	}
}

func TestNoInnerCodecIsAnError(t *testing.T) {
	c := zstd.New[int](nil, 0)
	const says = "aside: the inner codec given to zstd.New is nil"
	_, err := c.Encode(1)
	require.EqualError(t, err, says)
	_, err = c.Decode("1")
	require.EqualError(t, err, says)
}

func TestTheInnerCodecsErrorsArePassedOn(t *testing.T) {
	c := zstd.New(codec.JSON[float64](), 0)
	_, err := c.Encode(math.Inf(1))
	require.ErrorContains(t, err, "aside: encode JSON: ")
	_, err = c.Decode("x")
	require.ErrorContains(t, err, "aside: decode JSON: ")
}

// Whatever is wrapped in whatever, with values that look like what any of the layers writes: it
// comes back, and never grows by more than one escape a layer.
func TestItNestsWithoutAmbiguity(t *testing.T) {
	piece := rapid.SampledFrom([]string{marker, marker + "0", marker + "1", "\x00aside:", "\x28\xb5\x2f\xfd", "\x00", repetitive, "x"})
	rapid.Check(t, func(t *rapid.T) {
		v := strings.Join(rapid.SliceOfN(piece, 0, 6).Draw(t, "pieces"), "") + string(rapid.SliceOf(rapid.Byte()).Draw(t, "tail"))
		c := codec.String()
		layers := rapid.SliceOfN(rapid.IntRange(-1, 4000), 1, 4).Draw(t, "minSizes")
		for _, minSize := range layers {
			c = zstd.New(c, minSize)
		}
		s, err := c.Encode(v)
		require.NoError(t, err)
		require.LessOrEqual(t, len(s), len(v)+len(layers)*(len(marker)+1))
		got, err := c.Decode(s)
		require.NoError(t, err)
		require.Equal(t, v, got)
	})
}

// Expanded values are strings over memory that the decoder was given to write to. A relapse (it
// writes there once more) would show as strings that change.
func TestItLeavesAloneWhatItExpanded(t *testing.T) {
	c := zstd.New(codec.String(), 0)
	r := rand.New(rand.NewPCG(3, 4))
	var got, want []string
	for range 300 {
		v := strings.Repeat(string(rune('a'+r.IntN(26))), r.IntN(200_000)/(1+r.IntN(100))) // blocks of one byte, repeated
		v += noise(r.IntN(3000))                                                           // blocks that are stored as they are
		v += strings.Repeat(repetitive[:1+r.IntN(100)], r.IntN(100))                       // blocks that are compressed
		stored, err := c.Encode(v)
		require.NoError(t, err)
		expanded, err := c.Decode(stored)
		require.NoError(t, err)
		_, err = c.Decode(stored + stored) // a second frame is expanded by another way, and refused
		if strings.HasPrefix(stored, marker+"1") {
			require.Error(t, err)
		}
		got, want = append(got, expanded), append(want, v)
	}
	for i := range want {
		require.True(t, got[i] == want[i], "value %d, of %d bytes", i, len(want[i]))
	}
}

// The encoder reads a string through a slice. Were it to write to it, this would crash: constants
// are in memory that cannot be written to.
func TestItDoesNotWriteToTheInnerCodecsString(t *testing.T) {
	const plain = "0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789 0123456789"
	stored, err := zstd.New(codec.String(), 0).Encode(plain)
	require.NoError(t, err)
	assert.True(t, strings.HasPrefix(stored, marker+"1"))
}

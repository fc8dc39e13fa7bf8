// Package zstd compresses what another codec writes. It is a package of its own so that only
// programs that compress link a compression library.
package zstd

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/klauspost/compress/zstd"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/internal/outcome"
)

// MaxDecompressed is the largest value, in bytes as the inner codec wrote it, that [New]
// compresses, and the largest that it expands when reading: 64 MiB. A stored value that claims to
// be larger is an error before memory is allocated for it. Larger values are stored uncompressed,
// and are then limited by the client's own MaxValueBytes only.
const MaxDecompressed = 64 << 20

// New compresses what the inner codec writes with zstd (level 3, checksummed), where that makes it
// smaller.
//
// Values of less than minSize bytes are not tried; minSize ≤ 0 means that every value is. Below
// some hundred bytes there is little to gain: marker, frame and checksum cost about 20 bytes.
// Values that would not get smaller are stored uncompressed.
//
// Switching it on: readers with this codec also read values that were written without it. Readers
// without it cannot read compressed values: JSON, Gob, msgpack and proto return an error, so they
// load and overwrite; String, Bytes and some Funcs accept any bytes and would return the compressed
// ones as the value. So, where processes are replaced one after another, first deploy
// zstd.New(inner, math.MaxInt), which reads both forms and compresses nothing, then lower minSize.
// Switching it off, or rolling back, is the same in reverse: first math.MaxInt, and drop it once
// the longest TTL has passed. Changing minSize alone needs no care.
//
// One exception: a value that was written without it and happens to begin with the six bytes
// "\x00zstd:" is taken for a compressed one. It does not decode, and is loaded again, unless the
// seventh byte is '0': then the value comes back without those seven.
//
// A nil inner codec makes a codec whose calls return an error.
//
// Memory, once for all zstd codecs of the process: when the first value is compressed, up to 3 MB
// for each of at most four encoders; when the first is expanded, for each of GOMAXPROCS decoders
// 0.15 MB, and the value that it expanded last. Further calls at the same time wait for their turn.
// No goroutine is started. It works in a bubble of testing/synctest, too; if the first call of a
// process comes from one, it gets memory of its own.
func New[T any](inner codec.Codec[T], minSize int) codec.Codec[T] {
	return zstdCodec[T]{inner: inner, minSize: minSize}
}

// It writes the inner codec's bytes, or
//
//	+----------------+------+---------...
//	| \x00 z s t d : | form | body, to the end
//	+----------------+------+---------...
//
//	form '1': body is one zstd frame, with its content's size and checksum (xxh64, 32 bits of it) in it
//	form '0': body is the inner codec's bytes, which themselves begin with the marker and did not get smaller
//
// So whatever begins with the marker was written by us, and every other form is an error: a later
// version's, or damage. The marker is not the client's own ("\x00aside:"), which stands in front of
// this where both are needed.
const (
	zstdMarker = "\x00zstd:"
	zstdStored = zstdMarker + "0"
	zstdFrame  = zstdMarker + "1"
)

// Each block of a frame expands to at most zstdBlock bytes, and takes at least zstdBlockMin: its
// header and one byte to repeat.
const (
	zstdBlock    = 128 << 10
	zstdBlockMin = 3 + 1
)

var (
	errNilInner     = errors.New("aside: the inner codec given to zstd.New is nil")
	errUnknownForm  = errors.New("unknown form: written by a later version, or damaged")
	errIncomplete   = errors.New("the frame does not say its size, or has no checksum")
	errTooLarge     = fmt.Errorf("expands to more than %d bytes", MaxDecompressed)
	errImplausible  = errors.New("the frame claims more than its bytes can hold")
	errSizeMismatch = errors.New("the frame holds less or more than it says")
)

type zstdCodec[T any] struct {
	inner   codec.Codec[T]
	minSize int
}

// String names the codec in logs, and the one that it wraps.
func (c zstdCodec[T]) String() string {
	if named, ok := c.inner.(fmt.Stringer); ok {
		return "Zstd(" + named.String() + ")"
	}
	return fmt.Sprintf("Zstd(%T)", c.inner)
}

// Unwrap returns the codec whose bytes are compressed.
func (c zstdCodec[T]) Unwrap() codec.Codec[T] { return c.inner }

func (c zstdCodec[T]) Encode(v T) (string, error) {
	if c.inner == nil {
		return "", errNilInner
	}
	plain, err := c.inner.Encode(v)
	if err != nil {
		return "", err
	}
	return compress(plain, c.minSize)
}

func (c zstdCodec[T]) Decode(s string) (T, error) {
	if c.inner == nil {
		return *new(T), errNilInner
	}
	plain, err := expand(s)
	if err != nil {
		return *new(T), err
	}
	return c.inner.Decode(plain)
}

// compress returns what to store for plain.
func compress(plain string, minSize int) (s string, err error) {
	defer outcome.Settle("compress", &s, &err)
	stored := plain
	if strings.HasPrefix(plain, zstdMarker) {
		stored = zstdStored + plain
	}
	if len(plain) == 0 || len(plain) < minSize || len(plain) > MaxDecompressed {
		return stored, nil
	}
	enc, err := zstdEncoder.get()
	if err != nil {
		return "", err
	}
	// Into borrowed memory, then copied: the string may stay in the process's memory for long, and
	// would hold on to all that was set aside for the case that nothing gets smaller.
	scratch := scratches.Get().(*[]byte)
	defer scratches.Put(scratch)
	out := append((*scratch)[:0], zstdFrame...)
	// EncodeAll only reads its input, and keeps none of it.
	out = enc.EncodeAll(unsafe.Slice(unsafe.StringData(plain), len(plain)), out)
	if cap(out) <= maxScratch {
		*scratch = out[:0]
	}
	if len(out) >= len(stored) {
		return stored, nil
	}
	return string(out), nil
}

// expand returns the inner codec's bytes.
func expand(s string) (plain string, err error) {
	defer outcome.Settle("decompress", &plain, &err)
	if !strings.HasPrefix(s, zstdMarker) {
		return s, nil
	}
	if body, ok := strings.CutPrefix(s, zstdStored); ok {
		return body, nil
	}
	body, ok := strings.CutPrefix(s, zstdFrame)
	if !ok {
		return "", errUnknownForm
	}
	frame := []byte(body) // a copy: the decoder is assembly in part, and s is not ours to lose; it costs less than 4 % (BenchmarkZstd in package codec)
	var header zstd.Header
	switch err := header.Decode(frame); {
	case err != nil:
		return "", err
	case !header.HasFCS || !header.HasCheckSum:
		return "", errIncomplete
	case header.FrameContentSize > MaxDecompressed:
		return "", errTooLarge
	case header.FrameContentSize > uint64(len(frame)/zstdBlockMin+1)*zstdBlock:
		return "", errImplausible // or twenty bytes could make us take 64 MiB, to find out that they lied
	}
	dec, err := zstdDecoder.get()
	if err != nil {
		return "", err
	}
	out, err := dec.DecodeAll(frame, make([]byte, 0, header.FrameContentSize))
	if err != nil {
		return "", err
	}
	if uint64(len(out)) != header.FrameContentSize {
		return "", errSizeMismatch
	}
	// Nobody writes to out again: the decoder holds on to it until its next call, and then lets go
	// of it before it decodes (TestItLeavesAloneWhatItExpanded).
	return unsafe.String(unsafe.SliceData(out), len(out)), nil
}

// scratches lends memory to compress into. Buffers that grew beyond maxScratch are left to the
// garbage collector, so that one large value does not keep its size for good.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

const maxScratch = 1 << 20

// One encoder and one decoder for the whole process, made when first needed: each holds its working
// memory, and EncodeAll and DecodeAll take a place in it for the length of a call. They start no
// goroutine and so need no closing.
var (
	// Single segment: the frame always says its size, and a reader takes exactly that much memory.
	// Window of 1 MiB: how far back repetition is found. The default, 8 MiB, makes each encoder
	// keep 20 MB after one large value. At most four places: compressing happens once a load, next
	// to which waiting for a place is nothing.
	zstdEncoder = shared[zstd.Encoder]{create: func(alone bool) (*zstd.Encoder, error) {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(true), zstd.WithSingleSegment(true),
			zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true), zstd.WithEncoderConcurrency(places(alone, 4)))
		if err == nil {
			enc.EncodeAll([]byte{0}, nil) // makes its channel now: the next call may come from a bubble
		}
		return enc, err
	}}
	// A place for each processor: expanding happens on every read of a typed value, and fewer
	// places would be a lock there.
	zstdDecoder = shared[zstd.Decoder]{create: func(alone bool) (*zstd.Decoder, error) {
		return zstd.NewReader(nil, zstd.WithDecoderConcurrency(places(alone, math.MaxInt)), zstd.WithDecoderMaxMemory(MaxDecompressed))
	}}
)

func places(alone bool, most int) int {
	if alone {
		return 1
	}
	return min(runtime.GOMAXPROCS(0), most)
}

// shared is made once, when it is first needed. But not in a bubble of testing/synctest: a channel
// that is made there must not be used by anybody else, in this or another test; that ends the
// process. The first caller in a bubble gets one for itself alone.
type shared[T any] struct {
	create func(alone bool) (*T, error)

	mu   sync.Mutex        // held while it is made
	made atomic.Pointer[T] // nil until then
}

func (s *shared[T]) get() (*T, error) {
	if v := s.made.Load(); v != nil {
		return v, nil
	}
	if inBubble() {
		return s.create(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.made.Load(); v != nil {
		return v, nil
	}
	v, err := s.create(false)
	if err == nil {
		s.made.Store(v)
	}
	return v, err
}

// inBubble reports whether the calling goroutine belongs to a bubble of testing/synctest. Only a
// stack trace says so: "goroutine 7 [running, synctest bubble 1]:".
func inBubble() bool {
	var b [96]byte
	head, _, _ := bytes.Cut(b[:runtime.Stack(b[:], false)], []byte{'\n'})
	return bytes.Contains(head, []byte("synctest bubble"))
}

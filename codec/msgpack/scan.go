package msgpack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/vmihailenco/msgpack/v5/msgpcode"
)

// Why a scan before decoding: the decoder (v5.4.1) allocates what an array, map or byte string says
// its length is before it has seen the first element, so that five bytes ask for 64 GB, and it
// recurses without a limit. Neither running out of memory nor of stack can be recovered from.
//
//	1: scan goes over the headers from the first to the last byte. Each length must fit in what is left, where every element takes
//	   at least one byte. Arrays and maps may not be nested deeper than maxDepth.
//	2: The content of an extension is passed over: only its decoder knows what is in it. But where the decoder wants a map, it skips an
//	   extension's header and takes what follows for the map's (DecodeMapLen), which the scan has not seen: reader refuses that.
//	3: The decoder reads.
//
// The scan does not require one single value: a type with its own EncodeMsgpack may write several
// where one is declared.

// maxDepth is how deep arrays and maps may be nested: the limit of encoding/json.
const maxDepth = 10_000

var (
	errTruncated = errors.New("truncated")
	errDepth     = fmt.Errorf("nested deeper than %d", maxDepth)
	errLength    = errors.New("a length beyond the end of the input")
	errExtMap    = errors.New("an extension where a map is expected")
)

// scan checks s and returns what to decode it from.
func scan(s string) (*reader, error) {
	r := &reader{Reader: strings.NewReader(s), s: s}
	var open []uint64 // how many elements are still to come of each array or map that encloses i
	for i := 0; i < len(s); {
		for len(open) > 0 && open[len(open)-1] == 0 {
			open = open[:len(open)-1]
		}
		if len(open) > 0 {
			open[len(open)-1]--
		}
		h, err := readHeader(s[i:])
		if err != nil {
			return nil, err
		}
		i += h.size
		left := uint64(len(s) - i)
		if h.body > left || h.elems > left {
			return nil, errLength
		}
		if h.ext && h.body > 0 && isMap(s[i]) {
			r.guarded = append(r.guarded, i)
		}
		i += int(h.body)
		if h.elems > 0 {
			if len(open) == maxDepth {
				return nil, errDepth
			}
			open = append(open, h.elems)
		}
	}
	return r, nil
}

// header is what stands in front of one value.
type header struct {
	size  int    // bytes of the header itself
	body  uint64 // bytes of content that follow
	elems uint64 // values that follow: two for each entry of a map
	ext   bool   // the body is an extension's
}

// readHeader reads the header at the beginning of s, which is not empty.
func readHeader(s string) (header, error) {
	c := s[0]
	switch {
	case msgpcode.IsFixedNum(c), c == msgpcode.Nil, c == msgpcode.False, c == msgpcode.True:
		return header{size: 1}, nil
	case msgpcode.IsFixedString(c):
		return header{size: 1, body: uint64(c & msgpcode.FixedStrMask)}, nil
	case msgpcode.IsFixedArray(c):
		return header{size: 1, elems: uint64(c & msgpcode.FixedArrayMask)}, nil
	case msgpcode.IsFixedMap(c):
		return header{size: 1, elems: 2 * uint64(c&msgpcode.FixedMapMask)}, nil
	}
	switch c {
	case msgpcode.Uint8, msgpcode.Int8:
		return header{size: 1, body: 1}, nil
	case msgpcode.Uint16, msgpcode.Int16:
		return header{size: 1, body: 2}, nil
	case msgpcode.Uint32, msgpcode.Int32, msgpcode.Float:
		return header{size: 1, body: 4}, nil
	case msgpcode.Uint64, msgpcode.Int64, msgpcode.Double:
		return header{size: 1, body: 8}, nil

	case msgpcode.Str8, msgpcode.Bin8:
		n, err := length(s[1:], 1)
		return header{size: 2, body: n}, err
	case msgpcode.Str16, msgpcode.Bin16:
		n, err := length(s[1:], 2)
		return header{size: 3, body: n}, err
	case msgpcode.Str32, msgpcode.Bin32:
		n, err := length(s[1:], 4)
		return header{size: 5, body: n}, err

	case msgpcode.Array16:
		n, err := length(s[1:], 2)
		return header{size: 3, elems: n}, err
	case msgpcode.Array32:
		n, err := length(s[1:], 4)
		return header{size: 5, elems: n}, err
	case msgpcode.Map16:
		n, err := length(s[1:], 2)
		return header{size: 3, elems: 2 * n}, err
	case msgpcode.Map32:
		n, err := length(s[1:], 4)
		return header{size: 5, elems: 2 * n}, err

	// An extension's type is the last byte of its header.
	case msgpcode.FixExt1, msgpcode.FixExt2, msgpcode.FixExt4, msgpcode.FixExt8, msgpcode.FixExt16:
		_, err := length(s[1:], 1)
		return header{size: 2, body: 1 << (c - msgpcode.FixExt1), ext: true}, err
	case msgpcode.Ext8:
		n, err := length(s[1:], 1)
		return header{size: 3, body: n, ext: true}, errors.Join(err, atLeast(s, 3))
	case msgpcode.Ext16:
		n, err := length(s[1:], 2)
		return header{size: 4, body: n, ext: true}, errors.Join(err, atLeast(s, 4))
	case msgpcode.Ext32:
		n, err := length(s[1:], 4)
		return header{size: 6, body: n, ext: true}, errors.Join(err, atLeast(s, 6))
	}
	return header{}, fmt.Errorf("unknown code %#x", c)
}

// length reads a big endian number of so many bytes, 1, 2 or 4, from the beginning of s.
func length(s string, bytes int) (uint64, error) {
	var b [8]byte
	if copy(b[8-bytes:], s) < bytes {
		return 0, errTruncated
	}
	return binary.BigEndian.Uint64(b[:]), nil
}

func atLeast(s string, n int) error {
	if len(s) < n {
		return errTruncated
	}
	return nil
}

func isMap(c byte) bool {
	return msgpcode.IsFixedMap(c) || c == msgpcode.Map16 || c == msgpcode.Map32
}

// reader is what the decoder reads from. The decoder fetches codes with ReadByte and content with
// Read, so a ReadByte where an extension's content begins with the code of a map is the decoder
// taking it for one.
type reader struct {
	*strings.Reader
	s       string
	guarded []int // offsets, ascending, of extensions' contents that look like a map
}

func (r *reader) ReadByte() (byte, error) {
	if len(r.guarded) > 0 {
		if _, found := slices.BinarySearch(r.guarded, len(r.s)-r.Len()); found {
			return 0, errExtMap
		}
	}
	return r.Reader.ReadByte()
}

package faultproxy

import (
	"bytes"
	"strconv"
)

// maxLine bounds what frames keeps of a line without an end. Redis allows 64 KiB for an inline
// command.
const maxLine = 64 << 10

// probe begins the keys, and other arguments, by which a client's probes can be told from what its
// callers ask. A value that has such a string counts under this name.
const probe = "aside:probe"

// frames finds the ends of RESP values in a stream that arrives in arbitrary pieces, in either
// direction (a request is an array of bulk strings or an inline line, a reply any type of RESP2 or
// RESP3). It keeps no payload but the name of a command. After something that is not RESP, such as
// TLS, it is silent for good. Not safe for concurrent use.
type frames struct {
	line  []byte // the header line so far
	skip  int    // bytes of a payload and its CRLF that are still to come
	open  []int  // elements missing in each aggregate that is not complete, outermost first
	kind  byte   // first byte of the outermost value
	name  []byte // first string in it
	named bool   // name is complete
	head  []byte // of the string at hand, as much as probe has
	probe bool   // a string in the outermost value begins with probe
	lost  bool   // this is not RESP
}

// feed reads the next piece and calls ended once for each outermost value that ends in it.
func (f *frames) feed(b []byte, ended func(kind byte, name string)) {
	for len(b) > 0 && !f.lost {
		if f.skip > 0 {
			n := min(f.skip, len(b))
			if !f.named {
				f.name = append(f.name, b[:min(n, maxLine-len(f.name))]...)
			}
			f.head = append(f.head, b[:min(n, len(probe)-len(f.head))]...)
			f.skip -= n
			b = b[n:]
			if f.skip == 0 {
				f.named = true
				f.probe = f.probe || string(f.head) == probe
				f.end(ended)
			}
			continue
		}
		end := bytes.IndexByte(b, '\n')
		if end < 0 {
			f.line = append(f.line, b...)
			f.lost = len(f.line) > maxLine
			return
		}
		f.line = append(f.line, b[:end]...)
		b = b[end+1:]
		if f.lost = len(f.line) > maxLine; f.lost {
			return
		}
		f.header(bytes.TrimSpace(f.line), ended)
		f.line = f.line[:0]
	}
}

// header reads the line with which every value begins, and with which most of them end too.
func (f *frames) header(line []byte, ended func(byte, string)) {
	if len(line) == 0 {
		return // Redis ignores empty lines between requests
	}
	if len(f.open) == 0 {
		f.kind, f.name, f.named, f.probe = line[0], f.name[:0], false, false
		f.lost = line[0] < '!' || line[0] > '~' // a TLS record begins so
	}
	elements := 0
	switch line[0] {
	case '$', '=', '!': // string, verbatim string, long error
		if n := f.length(line); n >= 0 {
			f.skip, f.head = n+2, f.head[:0]
			return
		}
	case '*', '~', '>': // array, set, push
		elements = f.length(line)
	case '%': // map
		elements = 2 * f.length(line)
	case '|': // attributes, which stand before a value and belong to it
		elements = 2*f.length(line) + 1
	default:
		if len(f.open) == 0 { // inline command; for a simple reply nobody asks for the name
			f.name = append(f.name, bytes.Fields(line)[0]...)
		}
	}
	if elements > 0 {
		f.open = append(f.open, elements)
		return
	}
	f.end(ended)
}

func (f *frames) length(line []byte) int {
	n, err := strconv.Atoi(string(line[1:]))
	f.lost = f.lost || err != nil || n > 1<<30
	return n
}

// end closes the value just read and every aggregate of which it was the last element.
func (f *frames) end(ended func(byte, string)) {
	for len(f.open) > 0 {
		last := len(f.open) - 1
		f.open[last]--
		if f.open[last] > 0 {
			return
		}
		f.open = f.open[:last]
	}
	switch {
	case f.lost:
	case f.probe:
		ended(f.kind, probe)
	default:
		ended(f.kind, string(bytes.ToUpper(bytes.TrimSpace(f.name))))
	}
}

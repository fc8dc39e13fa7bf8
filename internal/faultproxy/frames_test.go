package faultproxy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func parse(pieces ...string) (ended []string) {
	var f frames
	for _, piece := range pieces {
		f.feed([]byte(piece), func(kind byte, name string) { ended = append(ended, fmt.Sprintf("%c %s", kind, name)) })
	}
	return ended
}

func TestFramesFindsTheEndOfEveryType(t *testing.T) {
	for name, row := range map[string]struct {
		stream string
		ended  []string
	}{
		"command":           {"*2\r\n$3\r\nget\r\n$1\r\na\r\n", []string{"* GET"}},
		"payload like RESP": {"*2\r\n$3\r\nGET\r\n$9\r\n*1\r\n$4\r\na\r\n*1\r\n$4\r\nPING\r\n", []string{"* GET", "* PING"}},
		"empty string":      {"*2\r\n$3\r\nGET\r\n$0\r\n\r\n", []string{"* GET"}},
		"probe":             {"*2\r\n$3\r\nGET\r\n$12\r\naside:probe1\r\n*2\r\n$3\r\nGET\r\n$11\r\naside:prob1\r\n", []string{"* aside:probe", "* GET"}},
		"inline":            {"ping  x\r\n\r\nTIME\n", []string{"p PING", "T TIME"}},
		"simple replies":    {"+OK\r\n-ERR no\r\n:1\r\n_\r\n#t\r\n,1.5\r\n(12\r\n", []string{"+ +OK", "- -ERR", ": :1", "_ _", "# #T", ", ,1.5", "( (12"}},
		"null string":       {"$-1\r\n*-1\r\n*0\r\n", []string{"$ ", "* ", "* "}},
		"nested":            {"*2\r\n*2\r\n:1\r\n:2\r\n%1\r\n+k\r\n~1\r\n:3\r\n+OK\r\n", []string{"* ", "+ +OK"}},
		"push":              {">2\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\na\r\n", []string{"> INVALIDATE"}},
		"attribute":         {"|1\r\n+ttl\r\n:3\r\n$1\r\nx\r\n+OK\r\n", []string{"| X", "+ +OK"}},
		"verbatim, error":   {"=6\r\ntxt:ab\r\n!3\r\nERR\r\n", []string{"= TXT:AB", "! ERR"}},
		"TLS":               {"\x16\x03\x01\x00\x05\nGET\nGET\n", nil},
		"bad length":        {"*x\r\n+OK\r\n", nil},
		"huge length":       {"$9999999999999\r\n+OK\r\n", nil},
		"endless line":      {strings.Repeat("a", maxLine+1) + "\n+OK\r\n", nil},
	} {
		t.Run(name, func(t *testing.T) {
			assert.Equal(t, row.ended, parse(row.stream))
			assert.Equal(t, row.ended, parse(strings.Split(row.stream, "")...))
		})
	}
}

func FuzzFramesDoesNotDependOnHowTheStreamIsCut(f *testing.F) {
	f.Add("*2\r\n$3\r\nGET\r\n$1\r\na\r\nPING\r\n>1\r\n+x\r\n")
	f.Add(" \n") // once an index out of range
	f.Add("|1\r\n+ttl\r\n:3\r\n%1\r\n+a\r\n$-1\r\n")
	f.Fuzz(func(t *testing.T, stream string) {
		assert.Equal(t, parse(stream), parse(strings.Split(stream, "")...))
	})
}

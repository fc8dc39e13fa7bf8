package ops

import (
	"bytes"
	"crypto/md5"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
)

// What a record file looks like stands in fallback/file.go. This reader shares no code with the writer, so that one finds the other's mistakes:
// the golden files of package fallback, and a directory that it has written, are read here in tests.

const (
	fileVersion = 1
	fileType    = "string"
	fileSuffix  = ".json"
	tempSuffix  = ".tmp"
	maxFile     = 1 << 30 // no record takes more
	tornFill    = "{\n  \"version\": 1,\n  \"op\": \"fill\",\n"
	timeFormat  = "2006-01-02T15:04:05.000Z07:00"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recordFile is a record file as it stands there.
type recordFile struct {
	Version     int             `json:"version"`
	Op          fallback.Op     `json:"op"`
	Key         string          `json:"key"`
	KeyEncoding string          `json:"keyEncoding"`
	Stamp       string          `json:"stamp"`
	Slack       int64           `json:"slack"`
	Timestamp   string          `json:"timestamp"`
	TTL         int64           `json:"ttl"`
	Type        string          `json:"type"`
	Encoding    string          `json:"encoding"`
	Data        json.RawMessage `json:"data"`
	CRC         string          `json:"crc"`
}

// damage says why a file is no record.
type damage struct {
	kind   Kind
	detail string
}

// decode reads a record file. name is its name without folders.
func decode(name string, content []byte) (fallback.Record, *damage) {
	r, bad := decodeRecord(content)
	switch {
	case bad != nil && bad.kind == Corrupt && isTornFill(content):
		return r, &damage{Torn, "a loaded value that was not written to its end"}
	case bad != nil:
		return r, bad
	}
	if sum := md5.Sum([]byte(r.Key)); hex.EncodeToString(sum[:])+fileSuffix != name {
		return r, &damage{Foreign, "the record of another key: the file was renamed"}
	}
	return r, nil
}

// isTornFill says whether unreadable bytes may be what a loss of power has left of a loaded value, which alone is written without a sync.
func isTornFill(content []byte) bool {
	b := bytes.TrimRight(content, "\x00")
	n := min(len(b), len(tornFill))
	return n == 0 || b[0] == 0 || string(b[:n]) == tornFill[:n]
}

func decodeRecord(content []byte) (r fallback.Record, bad *damage) {
	corrupt := func(why string) (fallback.Record, *damage) { return fallback.Record{}, &damage{Corrupt, why} }
	var f recordFile
	if err := json.Unmarshal(content, &f); err != nil {
		return corrupt("it is not JSON, or has fields of other types") // the error itself may quote the value
	}
	if f.Version > fileVersion {
		return fallback.Record{}, &damage{Newer, fmt.Sprintf("version %d, and this program knows version %d", f.Version, fileVersion)}
	}
	if f.Version != fileVersion {
		return corrupt("it names no version")
	}
	key, value := f.Key, string(f.Data)
	switch f.KeyEncoding {
	case "":
	case "base64":
		b, err := base64.StdEncoding.Strict().DecodeString(f.Key)
		if err != nil {
			return corrupt("its key is not base64")
		}
		key = string(b)
	default:
		return corrupt("the encoding of its key is unknown")
	}
	if f.Encoding != "json" {
		if err := json.Unmarshal(f.Data, &value); err != nil {
			return corrupt("its data is not in its encoding")
		}
	}
	switch f.Encoding {
	case "json", "utf8":
	case "base64":
		b, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil {
			return corrupt("its data is not in its encoding")
		}
		value = string(b)
	default:
		return corrupt("the encoding of its data is unknown")
	}
	if f.sum(key, value) != f.CRC {
		return corrupt("its checksum does not fit")
	}
	at, err := time.Parse(timeFormat, f.Timestamp)
	if err != nil {
		return corrupt("its timestamp is no time")
	}
	r = fallback.Record{Op: f.Op, Key: key, Value: value, Stamp: f.Stamp, Slack: f.Slack}
	if f.Op != fallback.OpDel {
		if f.TTL > 0 && at.UnixMilli() > math.MaxInt64-f.TTL {
			return corrupt("its ttl is out of range")
		}
		r.Expires = at.UnixMilli() + f.TTL
	}
	if !valid(&r) || f.Type != fileType {
		return corrupt("it is none that can be recorded")
	}
	return r, nil
}

// valid says whether the store would take in a record.
func valid(r *fallback.Record) bool {
	switch r.Op {
	case fallback.OpSet, fallback.OpFill:
		if r.Expires <= 0 {
			return false
		}
	case fallback.OpDel:
		if r.Expires != 0 || r.Value != "" {
			return false
		}
	default:
		return false
	}
	printable := func(c rune) bool { return c > ' ' && c <= '~' }
	return r.Stamp != "" && len(r.Stamp) <= 64 && strings.TrimFunc(r.Stamp, printable) == ""
}

// sum is the checksum: of all other fields as netstrings.
func (f *recordFile) sum(key, value string) string {
	crc := uint32(0)
	for _, s := range []string{
		string(f.Op), key, f.Stamp, strconv.FormatInt(f.Slack, 10), f.Timestamp, strconv.FormatInt(f.TTL, 10), f.Type, f.Encoding, value,
	} {
		crc = crc32.Update(crc, castagnoli, strconv.AppendInt(nil, int64(len(s)), 10))
		crc = crc32.Update(crc, castagnoli, []byte{':'})
		crc = crc32.Update(crc, castagnoli, []byte(s))
		crc = crc32.Update(crc, castagnoli, []byte{','})
	}
	return fmt.Sprintf("%08x", crc)
}

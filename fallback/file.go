package fallback

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/redaside/aside/internal/deferred"
	"github.com/redaside/aside/internal/sums"
)

// A record file is one JSON object, for people and programs:
//
//	{
//	  "version": 1,                              2 of operations. Read before anything else; with a later one in it the directory is not opened
//	  "op": "set",                               or "fill", "del", "operations"
//	  "key": "user:42",                          if it is not UTF-8: in base64, with "keyEncoding": "base64" in the next line
//	  "stamp": "1763719200123456c0ffee…",
//	  "slack": 1250,
//	  "timestamp": "2026-11-21T10:00:00.123Z",   when it was recorded, by the clock of the machine that did, in UTC
//	  "ttl": 60000,                              ms from timestamp to the end of the value: their sum is exactly Record.Expires. 0 for a del and for operations
//	  "type": "string",                          Redis's type of the value; "operations", which are of any
//	  "encoding": "json",                        how the value stands in data: "json" as it is, being JSON; "utf8" as a string; "base64"
//	  "data": {"name":"Ann"},                    "" for a del; for operations a list (internal/deferred has the picture)
//	  "crc": "8d2c3f01"
//	}
//
// crc is the CRC-32C (Castagnoli), in 8 hex digits, of all other fields as netstrings
// (<length>:<bytes>,) in this order: op, key, stamp, slack, timestamp, ttl, type, encoding, data.
// Numbers stand as they do in the file; of key and data it is the bytes that they mean. Thus layout
// is free, and each change of meaning is found.
//
// The name is the MD5 of the key in hex, in folders named after its first three bytes. MD5 spreads;
// it is not trusted: the key inside is compared, and no file is put over that of another key.

const (
	fileVersion = 2 // the latest
	fileType    = "string"
	typeOfOps   = "operations"
	fileSuffix  = ".json"
	tempSuffix  = ".tmp" // behind fileSuffix: what is being written

	encodingJSON   = "json"
	encodingUTF8   = "utf8"
	encodingBase64 = "base64"

	timeFormat = "2006-01-02T15:04:05.000Z07:00"

	maxRecordBytes = 512 << 20 // key and value together: Redis's own limit for a string
)

// MaxFileBytes is the most bytes that a record file can have: a larger one is not read.
const MaxFileBytes = fileOverhead + 4*maxRecordBytes/3 + 6*maxStampBytes

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Why a file is no record; see DecodeFile.
var (
	ErrFileTorn     = errors.New("a fill that was not written to its end") // nobody was promised it
	ErrFileEmpty    = errors.New("nothing is left of it: a loaded value that was cut off by a loss of power, or a write that the disk has lost")
	ErrFileVersion  = errors.New("a newer aside wrote it. Nothing is lost: run that until nothing is pending, or move the directory away, keep it, and replay it with that later")
	ErrFileCorrupt  = errors.New("not a record as it was written")
	ErrFileOtherKey = errors.New("the record of another key: the file was renamed, or the keys have the same MD5")
)

// digest is the MD5 of a key, after which its file is named.
type digest [16]byte

func digestOf(key string) digest { return sums.MD5(key) }

// folder returns the directory of a digest's file below db/<n>, and path the file.
func (d digest) folder(db int) string {
	const hexDigits = "0123456789abcdef"
	b := make([]byte, 0, 20)
	b = append(b, "db/"...)
	b = strconv.AppendInt(b, int64(db), 10)
	for _, c := range d[:3] {
		b = append(b, '/', hexDigits[c>>4], hexDigits[c&15])
	}
	return string(b)
}

func (d digest) path(db int) string { return d.folder(db) + "/" + d.base() }

func (d digest) base() string { return hex.EncodeToString(d[:]) + fileSuffix }

// versionOf is the version of the file of a record: the first that had such records, so that an older
// program reads what it knows.
func versionOf(op Op) int {
	if op == OpOperations {
		return 2
	}
	return 1
}

// typeOf is what "type" says.
func typeOf(op Op) string {
	if op == OpOperations {
		return typeOfOps
	}
	return fileType
}

// jsonFile is a record file. Its fields stand in the file in this order: op comes so early that
// half a file still reports whether it held more than a fill.
type jsonFile struct {
	Version     int             `json:"version"`
	Op          Op              `json:"op"`
	Key         string          `json:"key"`
	KeyEncoding string          `json:"keyEncoding,omitempty"`
	Stamp       string          `json:"stamp"`
	Slack       int64           `json:"slack"`
	Timestamp   string          `json:"timestamp"`
	TTL         int64           `json:"ttl"`
	Type        string          `json:"type"`
	Encoding    string          `json:"encoding"`
	Data        json.RawMessage `json:"data"`
	CRC         string          `json:"crc"`
}

// tornPrefix is how the file of a fill begins.
const tornPrefix = "{\n  \"version\": 1,\n  \"op\": \"fill\",\n"

// encodeFile returns a record as it stands in its file. at is when it was recorded, in ms since
// 1970.
func encodeFile(r *Record, at int64) []byte {
	f := jsonFile{Op: r.Op, Stamp: r.Stamp, Slack: r.Slack, Timestamp: time.UnixMilli(at).UTC().Format(timeFormat), Type: typeOf(r.Op)}
	if r.Op == OpSet || r.Op == OpFill {
		f.TTL = r.Expires - at
	}
	var data []byte
	f.Encoding, data = encodeData(r.Value)
	b := make([]byte, 0, len(r.Key)+len(data)+350)
	b = append(b, "{\n  \"version\": "...)
	b = strconv.AppendInt(b, int64(versionOf(r.Op)), 10)
	b = appendField(b, "op", quoteJSON(string(r.Op)))
	if quoted := quoteJSON(r.Key); quoted != nil && len(quoted) <= base64.StdEncoding.EncodedLen(len(r.Key))+2+len(",\n  \"keyEncoding\": \"base64\"") {
		b = appendField(b, "key", quoted)
	} else {
		b = appendField(b, "key", quoteBase64(r.Key))
		b = appendField(b, "keyEncoding", []byte(`"`+encodingBase64+`"`))
	}
	b = appendField(b, "stamp", quoteJSON(f.Stamp))
	b = appendField(b, "slack", strconv.AppendInt(nil, f.Slack, 10))
	b = appendField(b, "timestamp", quoteJSON(f.Timestamp))
	b = appendField(b, "ttl", strconv.AppendInt(nil, f.TTL, 10))
	b = appendField(b, "type", quoteJSON(f.Type))
	b = appendField(b, "encoding", quoteJSON(f.Encoding))
	b = appendField(b, "data", data)
	b = appendField(b, "crc", quoteJSON(f.crc(r.Key, r.Value)))
	return append(b, "\n}\n"...)
}

func appendField(b []byte, name string, value []byte) []byte {
	b = append(b, ",\n  \""...)
	b = append(b, name...)
	b = append(b, "\": "...)
	return append(b, value...)
}

// encodeData writes a value so that a person can read it, if that brings it back byte for byte and
// takes no more room than base64.
func encodeData(value string) (encoding string, data []byte) {
	if embeddable(value) {
		return encodingJSON, []byte(value)
	}
	if quoted := quoteJSON(value); quoted != nil && len(quoted) <= base64.StdEncoding.EncodedLen(len(value))+2 {
		return encodingUTF8, quoted
	}
	return encodingBase64, quoteBase64(value)
}

// embeddable reports whether a value is JSON that a reader of the file gets back as it is. White
// space around it would be lost.
func embeddable(value string) bool {
	if value == "" || isSpace(value[0]) || isSpace(value[len(value)-1]) || !utf8.ValidString(value) {
		return false
	}
	return json.Valid([]byte(value))
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' || c == '\r' }

// quoteJSON returns s as a JSON string, or nil if it is not UTF-8.
func quoteJSON(s string) []byte {
	if !utf8.ValidString(s) {
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return nil // a string has no reason for that
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func quoteBase64(s string) []byte {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(s))+2)
	b = append(b, '"')
	b = base64.StdEncoding.AppendEncode(b, []byte(s))
	return append(b, '"')
}

// fileOverhead is more than what stands in a file around key, value and stamp.
const fileOverhead = 400

// fileBound is the most bytes that encodeFile makes of a record.
func fileBound(r *Record) int64 { return fileBoundOf(len(r.Key), len(r.Value), len(r.Stamp)) }

func fileBoundOf(key, value, stamp int) int64 {
	return fileOverhead + 4*int64(key+value)/3 + 6*int64(stamp)
}

// crc returns the checksum of the file, given what its key and data mean.
func (f *jsonFile) crc(key, value string) string {
	sum := uint32(0)
	var room [24]byte
	add := func(s string) {
		head := append(strconv.AppendInt(room[:0], int64(len(s)), 10), ':')
		sum = crc32.Update(sum, castagnoli, head)
		sum = crc32.Update(sum, castagnoli, []byte(s))
		sum = crc32.Update(sum, castagnoli, []byte{','})
	}
	for _, s := range []string{
		string(f.Op), key, f.Stamp, strconv.FormatInt(f.Slack, 10), f.Timestamp, strconv.FormatInt(f.TTL, 10), f.Type, f.Encoding, value,
	} {
		add(s)
	}
	return fmt.Sprintf("%08x", sum)
}

// DecodeFile reads a record file of a [Dir], whose name, without folders, is name, for those who
// look into a directory without opening it. The error is ErrFileTorn, ErrFileEmpty, ErrFileVersion,
// ErrFileCorrupt or ErrFileOtherKey; with the last comes the record.
func DecodeFile(name string, content []byte) (Record, error) {
	r, _, err := decodeFile(content)
	if err == nil && digestOf(r.Key).base() != name {
		err = ErrFileOtherKey
	}
	return r, err
}

// FileOf returns where the record of a key of a database has its file, relative to the directory.
func FileOf(db int, key string) string { return digestOf(key).path(db) }

// otherKey is ErrFileOtherKey, and says where the record belongs.
func otherKey(r *Record, db int) error {
	return fmt.Errorf("%w; it belongs at %s", ErrFileOtherKey, FileOf(db, r.Key))
}

// decodeFile reads what encodeFile has written. at is when it was recorded, in ms since 1970. Every
// error is one of those above.
func decodeFile(b []byte) (r Record, at int64, err error) {
	r, at, err = decodeJSON(b)
	if err == nil || errors.Is(err, ErrFileVersion) {
		return r, at, err
	}
	// A fill is written without a sync, so a loss of power may leave any part of it. Only where
	// that still says that it was a fill is it known that nobody was promised it: nothing, or
	// zeros, or half of the first lines, may as well be what a disk has left of an acknowledged
	// write.
	switch written := bytes.TrimRight(b, "\x00"); {
	case len(written) == 0:
		err = ErrFileEmpty
	case bytes.HasPrefix(written, []byte(tornPrefix)):
		err = ErrFileTorn
	}
	return r, at, err
}

func decodeJSON(b []byte) (r Record, at int64, err error) {
	corrupt := func(why string) (Record, int64, error) {
		return Record{}, 0, fmt.Errorf("%w: %s", ErrFileCorrupt, why)
	}
	var f jsonFile
	if err := json.Unmarshal(b, &f); err != nil {
		return corrupt("it is not JSON, or has fields of other types") // the error itself may quote the value
	}
	if f.Version > fileVersion {
		return Record{}, 0, fmt.Errorf("%w: version %d, and this program knows version %d", ErrFileVersion, f.Version, fileVersion)
	}
	if f.Version != versionOf(f.Op) {
		return corrupt("it names no version, or not that of its op")
	}
	switch f.KeyEncoding {
	case "":
	case encodingBase64:
		key, err := base64.StdEncoding.Strict().DecodeString(f.Key)
		if err != nil {
			return corrupt("its key is not base64")
		}
		f.Key = string(key)
	default:
		return corrupt("the encoding of its key is unknown")
	}
	value, ok := decodeData(f.Encoding, f.Data)
	if !ok {
		return corrupt("its data is not in its encoding")
	}
	if f.crc(f.Key, value) != f.CRC {
		return corrupt("its checksum does not fit")
	}
	recorded, err := time.Parse(timeFormat, f.Timestamp)
	if err != nil {
		return corrupt("its timestamp is no time")
	}
	r = Record{Op: f.Op, Key: f.Key, Value: value, Stamp: f.Stamp, Slack: f.Slack}
	at = recorded.UnixMilli()
	if f.Op == OpSet || f.Op == OpFill {
		if f.TTL > 0 && at > math.MaxInt64-f.TTL {
			return corrupt("its ttl is out of range")
		}
		r.Expires = at + f.TTL
	}
	if err := r.validate(); err != nil || f.Type != typeOf(f.Op) {
		return corrupt("it is none that can be recorded")
	}
	return r, at, nil
}

func decodeData(encoding string, data json.RawMessage) (string, bool) {
	if encoding == encodingJSON {
		return string(data), len(data) > 0
	}
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return "", false
	}
	switch encoding {
	case encodingUTF8:
		return s, true
	case encodingBase64:
		b, err := base64.StdEncoding.Strict().DecodeString(s)
		return string(b), err == nil
	}
	return "", false
}

// validate says what is wrong with a record that somebody wants remembered.
func (r *Record) validate() error {
	bad := func(field string, value any, remedy string) error {
		return fmt.Errorf("aside: fallback.Record.%s is %v: %s", field, value, remedy)
	}
	switch r.Op {
	case OpSet, OpFill:
		if r.Expires <= 0 {
			return bad("Expires", r.Expires, "a value needs an end, in ms since 1970")
		}
	case OpDel:
		if r.Expires != 0 || r.Value != "" {
			return bad("Op", r.Op, "a delete has neither Value nor Expires")
		}
	case OpOperations:
		if r.Expires != 0 {
			return bad("Expires", r.Expires, "operations have none")
		}
		if l, err := deferred.Parse(r.Value); err != nil || len(l.Ops) > 0 && l.Last() != r.Stamp {
			return bad("Value", "not as Client.Apply makes it", "must be a list of operations, the last with the record's Stamp")
		}
	default:
		return bad("Op", strconv.Quote(string(r.Op)), "must be OpSet, OpFill, OpDel or OpOperations")
	}
	if len(r.Stamp) == 0 || len(r.Stamp) > maxStampBytes {
		return bad("Stamp", fmt.Sprintf("%d bytes long", len(r.Stamp)), fmt.Sprintf("must have 1 to %d", maxStampBytes))
	}
	for i := range len(r.Stamp) {
		if c := r.Stamp[i]; c <= ' ' || c > '~' {
			return bad("Stamp", strconv.Quote(r.Stamp), "must be printable ASCII without spaces")
		}
	}
	if len(r.Key)+len(r.Value) > maxRecordBytes {
		return bad("Value", fmt.Sprintf("with its key %d bytes long", len(r.Key)+len(r.Value)), fmt.Sprintf("must be at most %d", maxRecordBytes))
	}
	return nil
}

const maxStampBytes = 64 // as the journal has it

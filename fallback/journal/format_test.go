package journal

import (
	"bytes"
	"flag"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files of the present version")

// golden is what testdata/v1.aof holds. It never changes; another version gets another file.
var golden = []Record{
	{Op: Set, DB: 0, Key: "user:1", Value: `{"name":"Ada"}`, Expires: 1900000000000, Stamp: "019c01d2e3f40000-a1", Slack: 50000, Seq: 1},
	{Op: Del, DB: 0, Key: "user:2", Stamp: "019c01d2e3f40001-a1", Slack: -1, Seq: 2},
	{Op: Set, DB: 3, Key: "\x00\xff\r\n#aside 1 ", Value: "", Expires: 1, Stamp: "~", Slack: 0, Seq: 3},
	{Op: Settle, DB: 0, Stamp: "019c01d2e3f40000-a1", KeyHash: HashKey("user:1"), Seq: 4},
	{Op: skip, Stamp: "-", Slack: 5, Seq: 7},
	{Op: Set, DB: 3, Key: "", Value: "two\r\nlines\r\n", Expires: math.MaxInt64, Stamp: "019c01d2e3f40002-a1", Slack: math.MinInt64, Seq: 8},
	{Op: Del, DB: math.MaxInt32, Key: "last", Stamp: strings.Repeat("s", maxStamp), Slack: math.MaxInt64, Seq: maxSeq},
}

func TestGoldenFileOfVersion1(t *testing.T) {
	var part []byte
	db := noDB
	for i := range golden {
		part, db = appendRecord(part, &golden[i], testSalt, db)
	}
	if *update {
		require.NoError(t, os.WriteFile("testdata/v1.aof", part, 0o600))
	}
	want, err := os.ReadFile("testdata/v1.aof")
	require.NoError(t, err)
	assert.Equal(t, string(want), string(part), "what we write today must be what version 1 was when it was published")
	var got []Record
	_, err = scan(bytes.NewReader(want), defaultMaxRecordBytes, func(r *Record, salt string, _ int64) error {
		got = append(got, *r)
		assert.Equal(t, testSalt, salt)
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, golden, got)
}

// golden2 is what testdata/v2.aof holds, likewise. A journal without operations is one of version 1.
var golden2 = []Record{
	{Op: Set, DB: 0, Key: "n", Value: "5", Expires: 1900000000000, Stamp: "019c01d2e3f40000-a1", Slack: 50000, Seq: 1},
	{Op: Operations, DB: 0, Key: "n", Commands: [][]string{{"INCRBY", "5"}}, List: "019c01d2e3f40001-a1", Stamp: "019c01d2e3f40001-a1", Slack: -1, Seq: 2},
	{Op: Operations, DB: 3, Key: "\x00\xff\r\n#aside 2 ", Commands: [][]string{{"DEL"}, {"SADD", "", "\xff\r\n", "*1\r\n$4\r\nEXEC\r\n"}, {"PERSIST"}}, List: "~", Stamp: strings.Repeat("s", maxStamp), Slack: math.MinInt64, Seq: 3},
	{Op: Opened, DB: 3, Stamp: "~", List: "~", KeyHash: HashKey("\x00\xff\r\n#aside 2 "), Seq: 4},
	{Op: Settle, DB: 0, Stamp: "019c01d2e3f40001-a1", KeyHash: HashKey("n"), Seq: 5},
}

func TestGoldenFileOfVersion2(t *testing.T) { isGolden(t, "testdata/v2.aof", golden2) }

// isGolden looks whether records are written as a file of testdata has them, and read as they were.
func isGolden(t *testing.T, file string, records []Record) {
	t.Helper()
	var part []byte
	db := noDB
	for i := range records {
		part, db = appendRecord(part, &records[i], testSalt, db)
	}
	if *update {
		require.NoError(t, os.WriteFile(file, part, 0o600))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(want), string(part))
	var got []Record
	found, err := scan(bytes.NewReader(want), defaultMaxRecordBytes, func(r *Record, _ string, _ int64) error {
		got = append(got, *r)
		return nil
	})
	require.NoError(t, err)
	assert.Empty(t, found.Damages)
	assert.Equal(t, records, got)
}

// golden3 is what testdata/v3.aof holds, likewise. A journal without transactions is one of version 2 or 1.
var golden3 = []Record{
	{Op: Set, DB: 0, Key: "n", Value: "5", Expires: 1900000000000, Stamp: "019c01d2e3f40000-a1", Slack: 50000, Seq: 1},
	{Op: Transaction, DB: 0, Parts: []Record{
		{Op: Operations, Key: "n", Commands: [][]string{{"SET", "1"}, {"INCRBY", "2"}}, List: "019c01d2e3f40001-a1", Stamp: "019c01d2e3f40002-a1", Slack: -1},
		{Op: Operations, Key: "m", Commands: [][]string{{"SADD", "*1\r\n$4\r\nEXEC\r\n", "#part d s 0\r\n"}}, List: "~", Stamp: "~", Slack: 3},
		{Op: Set, Key: "s", Value: "#aside 3 0123456789abcdef 9 t 0 - 1 ", Expires: 1900000000001, Stamp: "019c01d2e3f40003-a1", Slack: 7},
		{Op: Del, Key: "", Stamp: strings.Repeat("s", maxStamp), Slack: math.MinInt64},
	}, Seq: 2},
	{Op: Operations, DB: 0, Key: "n", Commands: [][]string{{"INCRBY", "5"}}, List: "019c01d2e3f40001-a1", Stamp: "019c01d2e3f40004-a1", Slack: -1, Seq: 3},
	{Op: Transaction, DB: 7, Parts: []Record{{Op: Del, DB: 7, Key: "alone", Stamp: "!"}}, Seq: 4},
	{Op: Del, DB: 7, Key: "last", Stamp: "019c01d2e3f40005-a1", Seq: 5},
}

func TestGoldenFileOfVersion3(t *testing.T) { isGolden(t, "testdata/v3.aof", golden3) }

// Wherever the journal is cut, and whichever byte of a transaction is damaged, all of it is read or nothing.
func TestATransactionIsReadAsAWholeOrNotAtAll(t *testing.T) {
	whole, err := os.ReadFile("testdata/v3.aof")
	require.NoError(t, err)
	read := func(part []byte) (got []Record) {
		_, err := scan(bytes.NewReader(part), defaultMaxRecordBytes, func(r *Record, _ string, _ int64) error {
			got = append(got, *r)
			return nil
		})
		if err != nil { // a damaged version may be a newer one
			require.ErrorAs(t, err, new(*VersionError))
		}
		return got
	}
	for cut := range whole {
		got := read(whole[:cut])
		require.Equal(t, golden3[:len(got)], append([]Record{}, got...), "cut at %d", cut)
	}
	for at := range whole {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 4
		for _, r := range read(damaged) {
			require.Contains(t, golden3, r, "damaged at %d", at)
		}
	}
}

func TestGoldenFileOfANewerVersionIsLeftAlone(t *testing.T) {
	part, err := os.ReadFile("testdata/v4.aof")
	require.NoError(t, err)
	_, err = Scan(bytes.NewReader(part), func(Record, int64) error { return nil })
	require.ErrorContains(t, err, "version 4")
	require.ErrorContains(t, err, "Nothing is lost")
	var newer *VersionError
	require.ErrorAs(t, err, &newer)
	assert.Equal(t, VersionError{Version: 4}, *newer)
}

func TestALineIsShortEnoughForRedis(t *testing.T) {
	for _, op := range []Op{Set, Del, Settle} {
		r := Record{
			Op: op, DB: math.MaxInt32, Key: strings.Repeat("k", 5000), Expires: math.MaxInt64,
			Stamp: strings.Repeat("s", maxStamp), Slack: math.MinInt64, Seq: maxSeq,
		}
		require.NoError(t, r.validate(defaultMaxRecordBytes))
		part, _ := appendRecord(nil, &r, testSalt, noDB)
		line, _, _ := bytes.Cut(part, []byte("\n"))
		assert.Less(t, len(line)+1, maxLine)
		assert.LessOrEqual(t, int64(len(part)), r.bytes(), "what bounds a record counts all of it")
	}
	assert.Less(t, maxLine, 1000)
}

func TestARecordThatCannotBeRightIsRefused(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"no op":            func(r *Record) { r.Op = 0 },
		"a skip":           func(r *Record) { r.Op = skip },
		"negative DB":      func(r *Record) { r.DB = -1 },
		"DB too large":     func(r *Record) { r.DB = math.MaxInt32 + 1 },
		"no expiry":        func(r *Record) { r.Expires = 0 },
		"expired long ago": func(r *Record) { r.Expires = -1 },
		"no stamp":         func(r *Record) { r.Stamp = "" },
		"long stamp":       func(r *Record) { r.Stamp = strings.Repeat("s", maxStamp+1) },
		"space in stamp":   func(r *Record) { r.Stamp = "a b" },
		"line in stamp":    func(r *Record) { r.Stamp = "a\n" },
		"Ü in stamp":       func(r *Record) { r.Stamp = "Ü" },
	} {
		r := set("k")
		require.NoError(t, r.validate(defaultMaxRecordBytes), name)
		change(&r)
		require.ErrorIs(t, r.validate(defaultMaxRecordBytes), ErrInvalid, name)
		all := Record{Op: Transaction, Parts: []Record{set("a"), r}}
		require.ErrorIs(t, all.validate(defaultMaxRecordBytes), ErrInvalid, name)
	}
	for _, parts := range [][]Record{nil, {settle("a")}, {{Op: Transaction, Parts: []Record{set("a")}}}, {{Op: Opened, Key: "a", List: "s", Stamp: "s"}}, {{Op: Del, DB: 1, Key: "a", Stamp: "s"}}, make([]Record, maxParts+1)} {
		r := Record{Op: Transaction, Parts: parts}
		require.ErrorIs(t, r.validate(defaultMaxRecordBytes), ErrInvalid)
	}
	both := Record{Op: Transaction, Parts: []Record{set("a"), set("b")}}
	require.ErrorIs(t, both.validate(both.bytes()-1), ErrTooLarge)
	require.NoError(t, both.validate(both.bytes()))
	r := set("k")
	require.ErrorIs(t, r.validate(r.bytes()-1), ErrTooLarge)
	require.NoError(t, r.validate(r.bytes()))
}

func TestWhatIsWrittenIsRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOf(rapid.Custom(drawRecord)).Draw(t, "records")
		seq := uint64(0)
		for i := range records {
			seq += rapid.Uint64Range(1, 3).Draw(t, "step")
			records[i].Seq = seq
		}
		roundTrip(t, records, rapid.StringMatching("[0-9a-f]{16}").Draw(t, "salt"))
	})
}

func drawRecord(t *rapid.T) Record {
	// Bytes that mean something to the format come often.
	nasty := rapid.SampledFrom([]string{"\r\n", "\n", "#aside 1 ", "#part s s 0\r\n", "$5\r\n", "*5\r\n$3\r\nSET\r\n", "\x00", "\xff", "PXAT", " ", testSalt})
	text := rapid.Custom(func(t *rapid.T) string {
		return strings.Join(rapid.SliceOf(rapid.OneOf(nasty, rapid.StringOf(rapid.Rune()),
			rapid.Map(rapid.SliceOf(rapid.Byte()), func(b []byte) string { return string(b) }))).Draw(t, "pieces"), "")
	})
	r := Record{
		Op:    rapid.SampledFrom([]Op{Set, Del, Settle, Operations, Opened, Transaction}).Draw(t, "op"),
		DB:    rapid.OneOf(rapid.IntRange(0, 2), rapid.IntRange(0, math.MaxInt32)).Draw(t, "db"),
		Stamp: rapid.StringMatching("[!-~]{1,64}").Draw(t, "stamp"),
	}
	if r.Op == Transaction {
		r.Stamp = ""
		for range rapid.IntRange(1, 3).Draw(t, "parts") {
			p := rapid.Custom(drawRecord).Filter(func(r Record) bool { return r.Op == Set || r.Op == Del || r.Op == Operations }).Draw(t, "part")
			p.DB = r.DB
			r.Parts = append(r.Parts, p)
		}
		return r
	}
	if r.onlyHash() {
		if r.KeyHash = HashKey(text.Draw(t, "key")); r.Op == Opened {
			r.List = r.Stamp
		}
		return r
	}
	if r.Op == Operations {
		r.List = rapid.StringMatching("[!-~]{1,64}").Draw(t, "list")
		words := rapid.SliceOfN(text, 0, 4)
		for range rapid.IntRange(1, 3).Draw(t, "commands") {
			r.Commands = append(r.Commands, append([]string{rapid.SampledFrom([]string{"SADD", "DEL", "X"}).Draw(t, "name")}, words.Draw(t, "words")...))
		}
	}
	r.Key, r.Slack = text.Draw(t, "key"), rapid.Int64().Draw(t, "slack")
	if r.Op == Set {
		r.Value, r.Expires = text.Draw(t, "value"), rapid.Int64Range(1, math.MaxInt64).Draw(t, "expires")
	}
	return r
}

// roundTrip writes records, which are numbered, and reads them again.
func roundTrip(t require.TestingT, records []Record, salt string) {
	var part []byte
	db := noDB
	for i := range records {
		part, db = appendRecord(part, &records[i], salt, db)
	}
	var got []Record
	found, err := scan(bytes.NewReader(part), math.MaxInt64, func(r *Record, s string, _ int64) error {
		got = append(got, *r)
		require.Equal(t, salt, s)
		return nil
	})
	require.NoError(t, err)
	require.Empty(t, found.Damages)
	require.Len(t, got, len(records))
	for i := range records {
		require.Equal(t, records[i], got[i])
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add(byte('s'), 0, "k", "v", int64(1), "stamp", int64(0), uint64(1))
	f.Add(byte('d'), 5, "", "", int64(0), "~", int64(math.MinInt64), uint64(maxSeq))
	f.Add(byte('x'), 1, "\r\n#aside 1 ", "$5\r\n", int64(-1), "!", int64(-1), uint64(7))
	f.Fuzz(func(t *testing.T, op byte, db int, key, value string, expires int64, stamp string, slack int64, seq uint64) {
		r := Record{Op: Op(op), DB: db, Key: key, Value: value, Expires: expires, Stamp: stamp, Slack: slack}
		if r.validate(defaultMaxRecordBytes) != nil {
			return
		}
		if r.Seq = seq % maxSeq; r.Seq == 0 {
			r.Seq = maxSeq
		}
		switch r.Op { // what is not in the file
		case Settle:
			r.KeyHash, r.Key, r.Value, r.Expires, r.Slack = HashKey(key), "", "", 0, 0
		case Del:
			r.Value, r.Expires = "", 0
		}
		next := r
		if r.Seq < maxSeq {
			next.Seq++
		}
		roundTrip(t, []Record{r, next}, testSalt)
	})
}

func FuzzScan(f *testing.F) {
	part, at := encodeAt(testSalt, 1, set("a"), del("b"), settle("a"), Record{Op: Set, DB: 2, Key: "c", Expires: 1, Stamp: "s"})
	f.Add([]byte{})
	f.Add(part)
	f.Add(part[:len(part)-3])
	f.Add(append(bytes.Clone(part[:at[1]-9]), part[at[1]:]...))
	f.Add(bytes.Replace(part, []byte("#aside 1"), []byte("#aside 2"), 1))
	f.Add(bytes.Replace(part, []byte("#aside 1"), []byte("#aside 4"), 1))
	for _, golden := range []string{"testdata/v2.aof", "testdata/v3.aof"} {
		if part, err := os.ReadFile(golden); err == nil {
			f.Add(part)
		}
	}
	f.Add(bytes.Replace(part, []byte("$10\r\n"), []byte("$500000000\r\n"), 1))
	f.Add(append(part, encode("fedcba9876543210", 9, set("d"))...))
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var records []Record
		var salt string
		var covered int64 // by damage and records
		found, err := scan(bytes.NewReader(data), defaultMaxRecordBytes, func(r *Record, s string, at int64) error {
			records, salt = append(records, *r), s
			require.GreaterOrEqual(t, at, covered)
			covered = at + 1
			return nil
		})
		runtime.ReadMemStats(&after)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20+40*len(data)), "memory must not follow what lengths claim")
		if err != nil {
			var newer *VersionError
			require.ErrorAs(t, err, &newer)
			return
		}
		require.Equal(t, int64(len(data)), found.Bytes)
		end := int64(-1)
		for _, d := range found.Damages {
			require.Greater(t, d.Offset, end, "damages are in order and apart")
			require.Positive(t, d.Length)
			require.NotEmpty(t, d.Reason)
			end = d.Offset + d.Length
			require.Equal(t, end == found.Bytes, d.Tail)
		}
		require.LessOrEqual(t, end, found.Bytes)
		if len(records) > 0 {
			roundTrip(t, records, salt)
		}
	})
}

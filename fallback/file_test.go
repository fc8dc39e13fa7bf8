package fallback

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the golden files anew; a change of them is a change of the format")

// What lies in testdata was written by some version of aside, and is read by all that come after
// it.
func TestRecordFilesStayReadable(t *testing.T) {
	const stamp, expires, at = "1763719200123456c0ffee00c0ffee00000000000042", 1763719260123, 1763719200123
	for name, r := range map[string]Record{
		"v1-set-json.json":      {Op: OpSet, Key: "user:42", Value: `{"name":"Ann","tags":["a","b"]}`, Expires: expires, Stamp: stamp, Slack: 1250},
		"v1-set-utf8.json":      {Op: OpSet, Key: "greeting", Value: "Grüß \"Gott\"\n<&>", Expires: expires, Stamp: stamp, Slack: 0},
		"v1-set-base64.json":    {Op: OpSet, Key: "picture", Value: "\x89PNG\r\n\x1a\n\x00\xff", Expires: expires, Stamp: stamp, Slack: -1},
		"v1-set-key.json":       {Op: OpSet, Key: "\xff\x00key", Value: "42", Expires: expires, Stamp: stamp, Slack: 7},
		"v1-set-empty.json":     {Op: OpSet, Key: "", Value: "", Expires: at - 1, Stamp: stamp, Slack: 7},
		"v1-set-multiline.json": {Op: OpSet, Key: "config", Value: "{\n  \"a\": 1.50,\n  \"a\": 2\n}", Expires: expires, Stamp: stamp, Slack: 7},
		"v1-fill.json":          {Op: OpFill, Key: "user:43", Value: "null", Expires: expires, Stamp: stamp, Slack: 1250},
		"v1-del.json":           {Op: OpDel, Key: "user:44", Stamp: stamp, Slack: 1250},
	} {
		t.Run(name, func(t *testing.T) {
			golden := filepath.Join("testdata", name)
			if *update {
				require.NoError(t, os.MkdirAll("testdata", 0o755))
				require.NoError(t, os.WriteFile(golden, encodeFile(&r, at), 0o644))
			}
			want, err := os.ReadFile(golden)
			require.NoError(t, err)
			assert.Equal(t, string(want), string(encodeFile(&r, at)))
			got, gotAt, err := decodeFile(want)
			require.NoError(t, err)
			assert.Equal(t, r, got)
			assert.EqualValues(t, at, gotAt)
		})
	}
}

// anyBytes draws texts, JSON, and bytes that are neither.
func anyBytes() *rapid.Generator[string] {
	return rapid.OneOf(
		rapid.String(),
		rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }),
		rapid.SampledFrom([]string{"", "0", "null", "{}", ` {"a" : 1}`, `{"a" : [1, 2.0e5]}`, `"\ud800"`, "\"\xff\"", "\u2028", "\x00"}),
	)
}

func anyRecord() *rapid.Generator[Record] {
	return rapid.Custom(func(t *rapid.T) Record {
		r := Record{
			Op:    rapid.SampledFrom([]Op{OpSet, OpFill, OpDel}).Draw(t, "op"),
			Key:   anyBytes().Draw(t, "key"),
			Stamp: rapid.StringMatching(`[!-~]{1,64}`).Draw(t, "stamp"),
			Slack: rapid.Int64().Draw(t, "slack"),
		}
		if r.Op != OpDel {
			r.Value = anyBytes().Draw(t, "value")
			r.Expires = rapid.Int64Min(1).Draw(t, "expires")
		}
		return r
	})
}

func TestARecordComesBackFromItsFile(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRecord().Draw(t, "record")
		at := rapid.Int64Range(0, 253402300799999).Draw(t, "at")
		b := encodeFile(&r, at)
		require.True(t, json.Valid(b))
		require.LessOrEqual(t, int64(len(b)), fileBound(&r))
		require.Equal(t, r.Op == OpFill, strings.HasPrefix(string(b), tornPrefix))
		got, gotAt, err := decodeFile(b)
		require.NoError(t, err)
		require.Equal(t, r, got)
		require.Equal(t, at, gotAt)
		// Another program may have laid it out anew, if it left the data as it is.
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, b))
		if again, _, err := decodeFile(compact.Bytes()); err == nil {
			require.Equal(t, r, again)
		}
	})
}

// Whatever happens to the bytes of a file: it is not read as something else.
func TestADamagedFileIsNeverReadAsAnotherRecord(t *testing.T) {
	for _, r := range []Record{set("key", `{"a":1}`), set("\xff", "\x00\xff"), del("key"), fill("key", "täxt")} {
		b := encodeFile(&r, in(0))
		for i := range b {
			for _, changed := range [][]byte{
				append(append([]byte{}, b[:i]...), b[i+1:]...), b[:i], b[i+1:],
				append(append(append([]byte{}, b[:i]...), b[i]^1), b[i+1:]...),
				append(append(append([]byte{}, b[:i]...), b[i]^0x20), b[i+1:]...),
				append(append(append([]byte{}, b[:i]...), 0), b[i+1:]...),
			} {
				got, _, err := decodeFile(changed)
				if err == nil {
					require.Equal(t, r, got, "%s", changed)
					continue
				}
				require.True(t, damaged(err) || errors.Is(err, ErrFileVersion), "%v", err)
				if r.Op != OpFill {
					require.NotErrorIs(t, err, ErrFileTorn, "%s", changed)
				}
				if r.Value != "" {
					require.NotContains(t, err.Error(), r.Value, "the log has no values")
				}
			}
		}
	}
}

// A fill is written without a sync, so this is what power failure may leave of it. Each explicit
// record was synced before it got its name: what still says that it is a fill was none. What does
// not say so may have been one, and is not passed over.
func TestATornFillIsRecognized(t *testing.T) {
	r := fill("key", strings.Repeat("value", 1000))
	b := encodeFile(&r, in(0))
	for i := range len(b) - 1 { // without its last line end it is whole
		want := ErrFileTorn
		switch {
		case i == 0:
			want = ErrFileEmpty
		case i < len(tornPrefix):
			want = ErrFileCorrupt
		}
		_, _, err := decodeFile(b[:i])
		require.ErrorIs(t, err, want, "the first %d bytes", i)
		_, _, err = decodeFile(append(append([]byte{}, b[:i]...), make([]byte, len(b)-i)...))
		require.ErrorIs(t, err, want, "zeros after %d bytes", i)
	}
	_, _, err := decodeFile(append(make([]byte, 512), b[512:]...))
	require.ErrorIs(t, err, ErrFileCorrupt)

	other := set("key", "value")
	for i := range encodeFile(&other, in(0)) {
		_, _, err = decodeFile(encodeFile(&other, in(0))[:i])
		require.NotErrorIs(t, err, ErrFileTorn)
	}
	_, _, err = decodeFile([]byte("{}"))
	require.ErrorIs(t, err, ErrFileCorrupt)
}

func TestAFileOfALaterVersionIsNotJudged(t *testing.T) {
	r := set("key", "value")
	b := encodeFile(&r, in(0))
	_, _, err := decodeFile(bytes.Replace(b, []byte(`"version": 1`), []byte(`"version": 3, "news": []`), 1))
	require.ErrorIs(t, err, ErrFileVersion)
	require.ErrorContains(t, err, "version 3")
}

// Two fields and their sum: a person sees both when and how long.
func TestExpiresIsTimestampPlusTTL(t *testing.T) {
	r := set("key", "value")
	at := time.Date(2026, 11, 21, 10, 0, 0, 123e6, time.UTC)
	r.Expires = at.UnixMilli() + 60_000
	var f map[string]any
	require.NoError(t, json.Unmarshal(encodeFile(&r, at.UnixMilli()), &f))
	assert.Equal(t, "2026-11-21T10:00:00.123Z", f["timestamp"])
	assert.EqualValues(t, 60_000, f["ttl"])
}

func FuzzFile(f *testing.F) {
	golden, err := filepath.Glob(filepath.Join("testdata", "*.json"))
	require.NoError(f, err)
	require.NotEmpty(f, golden)
	for _, name := range golden {
		b, err := os.ReadFile(name)
		require.NoError(f, err)
		f.Add(b)
	}
	f.Add([]byte(tornPrefix))
	f.Add([]byte(`{"version":1,"op":"set","ttl":9223372036854775807,"timestamp":"9999-12-31T23:59:59.999Z"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, at, err := decodeFile(b)
		if err != nil {
			if !damaged(err) && !errors.Is(err, ErrFileVersion) {
				t.Fatalf("an error that is none of ours: %v", err)
			}
			return
		}
		if err := r.validate(); err != nil {
			t.Fatalf("it was read, and is none that can be recorded: %v", err)
		}
		again, againAt, err := decodeFile(encodeFile(&r, at))
		if err != nil || again != r || againAt != at {
			t.Fatalf("%+v at %d was read, and when written again %+v at %d, %v", r, at, again, againAt, err)
		}
	})
}

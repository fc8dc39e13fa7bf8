package codec_test

import (
	"encoding/hex"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/codec"
	"github.com/redaside/aside/codec/zstd"
)

const marker = "\x00zstd:"

var repetitive = strings.Repeat("again and again ", 100)

var update = flag.Bool("update", false, "write testdata anew; only ever for a new version of a format, in a new file")

// Bytes that an earlier release wrote are read for ever, or the version in them is raised. Only
// reading is fixed: gob and zstd may come to write the same value in other bytes.
func TestBytesOfEarlierVersionsAreRead(t *testing.T) {
	golden(t, "gob-1.hex", "Gob version 1 of user{ID: 42, Name: \"Ada Lovelace\", …}.", codec.Gob[user](), aUser())
	golden(t, "compress-1.hex", "Zstd form 1 (zstd frame) over String: \"again and again \" 100 times.",
		zstd.New(codec.String(), 0), repetitive)
	golden(t, "compress-0.hex", "Zstd form 0 (escape) over String: the marker itself.", zstd.New(codec.String(), 0), marker)
}

func golden[T any](t *testing.T, file, about string, c codec.Codec[T], want T) {
	t.Run(file, func(t *testing.T) {
		path := filepath.Join("testdata", file)
		if *update {
			s, err := c.Encode(want)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(path, []byte("# "+about+"\n"+hex.EncodeToString([]byte(s))+"\n"), 0o644))
		}
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		_, digits, _ := strings.Cut(string(text), "\n") // the first line is the explanation
		stored, err := hex.DecodeString(strings.TrimSpace(digits))
		require.NoError(t, err)
		got, err := c.Decode(string(stored))
		require.NoError(t, err)
		assert.Equal(t, want, got)
	})
}

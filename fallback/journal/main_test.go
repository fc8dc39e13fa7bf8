package journal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/redaside/aside/internal/vfs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const journalDir = "journal"

// opened is a journal and what it held when it was opened.
type opened struct {
	*Journal
	t       *testing.T
	fsys    vfs.FS
	records []Record
	report  Report
}

// open opens the journal of a file system. When the test ends, it closes it and looks whether it is
// whole.
func open(t *testing.T, fsys vfs.FS, o Options) *opened {
	t.Helper()
	j := reopen(t, fsys, o)
	t.Cleanup(func() {
		if t.Failed() {
			_ = j.Close(context.Background())
			return
		}
		if err := j.Close(context.Background()); err != nil {
			return // the test has left a disk that refuses
		}
		if _, err := fsys.Lstat("."); err != nil {
			return // or none
		}
		again := reopen(t, fsys, Options{})
		assert.Empty(t, again.report.Damages)
		assert.Nil(t, again.report.Torn)
		assert.Equal(t, j.report.Gaps, again.report.Gaps)
		assert.NoError(t, again.Close(context.Background()))
	})
	return j
}

// reopen only opens it.
func reopen(t *testing.T, fsys vfs.FS, o Options) *opened {
	t.Helper()
	opened := &opened{t: t, fsys: fsys}
	j, report, err := Open(fsys, journalDir, o, func(r Record) error {
		opened.records = append(opened.records, r)
		return nil
	})
	require.NoError(t, err)
	opened.Journal, opened.report = j, report
	require.Equal(t, len(opened.records), report.Records)
	return opened
}

// set appends Sets of some keys, each by an Append.
func (o *opened) set(keys ...string) {
	o.t.Helper()
	for _, key := range keys {
		require.NoError(o.t, o.Append(o.t.Context(), set(key)))
	}
}

// close closes the journal and opens it again.
func (o *opened) again(options Options) *opened {
	o.t.Helper()
	require.NoError(o.t, o.Close(context.Background()))
	return open(o.t, o.fsys, options)
}

// keys are the keys of what was there, those of deletes with a minus, and a cross for each Settle.
func (o *opened) keys() string { return keys(o.records) }

func keys(records []Record) string {
	var names []string
	for _, r := range records {
		switch r.Op {
		case Del:
			names = append(names, "-"+r.Key)
		case Settle:
			names = append(names, "x")
		default:
			names = append(names, r.Key)
		}
	}
	return strings.Join(names, " ")
}

func set(key string) Record {
	return Record{Op: Set, Key: key, Value: "value of " + key, Expires: 1900000000000, Stamp: "stamp-" + key, Slack: 5}
}

func del(key string) Record { return Record{Op: Del, Key: key, Stamp: "stamp-" + key} }

func settle(key string) Record { return Record{Op: Settle, Key: key, Stamp: "stamp-" + key} }

// parts are the names of the files in the journal's directory.
func parts(t *testing.T, fsys vfs.FS) []string { return files(t, fsys, journalDir) }

func files(t *testing.T, fsys vfs.FS, dir string) []string {
	t.Helper()
	entries, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	names := []string{}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func readFile(t *testing.T, fsys vfs.FS, name string) []byte {
	t.Helper()
	f, err := fsys.OpenFile(name, os.O_RDONLY, 0)
	require.NoError(t, err)
	defer f.Close()
	content, err := io.ReadAll(f)
	require.NoError(t, err)
	return content
}

func writeFile(t *testing.T, fsys vfs.FS, name string, content []byte) {
	t.Helper()
	require.NoError(t, fsys.MkdirAll(path.Dir(name), 0o700))
	f, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(content)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	require.NoError(t, fsys.SyncDir(path.Dir(name)))
}

const testSalt = "0123456789abcdef"

// encode writes records as a part has them, numbered from first.
func encode(salt string, first uint64, records ...Record) []byte {
	part, _ := encodeAt(salt, first, records...)
	return part
}

// encodeAt is encode that also says where each record begins, and where the last one ends.
func encodeAt(salt string, first uint64, records ...Record) (part []byte, at []int) {
	db := noDB
	for i, r := range records {
		r.Seq = first + uint64(i)
		at = append(at, len(part))
		part, db = appendRecord(part, &r, salt, db)
	}
	return part, append(at, len(part))
}

// scanned is what Scan says of a part.
func scanned(t *testing.T, part []byte) ([]Record, Findings) {
	t.Helper()
	var records []Record
	found, err := Scan(bytes.NewReader(part), func(r Record, _ int64) error {
		records = append(records, r)
		return nil
	})
	require.NoError(t, err)
	require.Equal(t, len(records), found.Records)
	require.Equal(t, int64(len(part)), found.Bytes)
	return records, found
}

func numbered(n int) []Record {
	var records []Record
	for i := range n {
		records = append(records, set(fmt.Sprintf("k%d", i+1)))
	}
	return records
}

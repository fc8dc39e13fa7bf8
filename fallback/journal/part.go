package journal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/redaside/aside/internal/vfs"
)

// part is a file of the journal. Where nothing else is said, it is the writer's.
type part struct {
	number uint64 // immutable, like name
	name   string
	size   int64
	last   uint64 // the greatest number in it; 0: none

	// Of a part that this process has begun:
	file   vfs.File // immutable
	salt   string   // immutable
	closed bool     // file is closed
	db     int      // selected at its end
	synced int64    // so much of size is durable
	named  bool     // its name is durable
	broken bool     // there are bytes behind size that could not be cut off

	syncing sync.Mutex // guards failed; held during fsync. May be taken by anyone
	failed  error      // of an fsync: there is no other after it
}

const (
	extension = ".aof"
	numberLen = 16
	temporary = ".tmp" // of a part that is being mended
)

func partName(dir string, number uint64) string {
	return path.Join(dir, fmt.Sprintf("%0*d%s", numberLen, number, extension))
}

// partNumber is the reverse, of a name without directory.
func partNumber(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, extension)
	if !ok || len(digits) != numberLen {
		return 0, false
	}
	number, ok := parseUint([]byte(strings.TrimLeft(digits, "0")))
	return number, ok
}

// fsync is file.Sync, once it has failed for ever. The kernel tells of a failure once, to the first
// caller, and then takes the data for clean: so one asks at a time, and its answer is everybody's.
func (p *part) fsync() error {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	if p.failed == nil {
		p.failed = p.file.Sync()
	}
	return p.failed
}

// doubtful is whether an fsync has failed.
func (p *part) doubtful() bool {
	p.syncing.Lock()
	defer p.syncing.Unlock()
	return p.failed != nil
}

// create makes a part that holds nothing yet.
func create(fsys vfs.FS, dir string, number uint64) (*part, error) {
	name := partName(dir, number)
	file, err := fsys.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &part{number: number, name: name, file: file, salt: newSalt(), db: noDB}, nil
}

// flushAt is how many bytes are collected for one write, unless a record is larger.
const flushAt = 1 << 20

// append writes records behind what is there, all or none: if the disk refuses, it cuts off what
// was written. buf is memory to use; it returns it.
func (p *part) append(records []Record, buf []byte) (_ []byte, err error) {
	size, db, last := p.size, p.db, p.last
	flush := func() error {
		n, err := p.file.Write(buf)
		if err == nil && n < len(buf) {
			err = io.ErrShortWrite
		}
		size += int64(n)
		buf = buf[:0]
		return err
	}
	for i := range records {
		buf, db = appendRecord(buf, &records[i], p.salt, db)
		last = max(last, records[i].Seq)
		if len(buf) >= flushAt {
			if err = flush(); err != nil {
				break
			}
		}
	}
	if err == nil && len(buf) > 0 {
		err = flush()
	}
	if err == nil {
		p.size, p.db, p.last = size, db, last
		return buf, nil
	}
	// Also after a write that has written nothing: what a disk that fails has done is its secret.
	if cut := p.file.Truncate(p.size); cut != nil {
		p.broken = true
		err = errors.Join(err, cut)
	}
	return buf, err
}

// remove removes the file, if it is there.
func (p *part) remove(fsys vfs.FS) error {
	p.close()
	if err := fsys.Remove(p.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (p *part) close() {
	if p.file != nil && !p.closed {
		_ = p.file.Close() // what matters was synced
	}
	p.closed = true
}

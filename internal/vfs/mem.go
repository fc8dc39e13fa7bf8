package vfs

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrStopped is the answer to every call after the machine has stopped: see [Mem.CutAt],
// [Mem.Crash] and [Mem.Kill].
var ErrStopped = errors.New("vfs: the machine has stopped")

// Mem is a directory in memory that is as strict as a disk may be: what was not synced is gone
// after a [Mem.Crash], and calls fail when a test says so (see faults.go). Safe for concurrent use:
// it is locked for each call as a whole.
//
// Each file and directory has two states: what everybody sees, and what is durable. Between them
// stand the changes that were not synced:
//
//	            Write, Truncate          Sync
//	file        seen ──────────▶ file.changes ────▶ durable
//	            OpenFile, Rename, Remove   SyncDir
//	directory   seen ──────────▶ Mem.changes  ────▶ durable
//
// A Sync that fails throws the file's changes away: they are still seen, but no later Sync makes
// them durable. That is what Linux does (Rebello et al., "Can Applications Recover from fsync
// Failures?", ATC 2020). A SyncDir that fails leaves them to the next one: metadata have a journal.
type Mem struct {
	mu      sync.Mutex // guards all below and all nodes
	freed   sync.Cond  // told when hung, waiting, or stopped changes
	root    *node
	changes []*nameChange    // of names, not synced, in order
	locked  map[*node]string // by name, for the message
	stopped bool             // every call fails with ErrStopped
	calls   int
	faults  []*armed
	cut     int // the mutating call before which the machine stops; 0: none
	hung    bool
	waiting int // calls that hang
}

// node is a file or a directory.
type node struct {
	mode    fs.FileMode
	changed time.Time

	data    []byte       // what is seen; of files
	durable []byte       // what would be there after a loss of power
	changes []dataChange // what is between them, in order

	names        map[string]*node // the same three of directories, the changes being Mem's
	durableNames map[string]*node
}

// dataChange is a Write, or, if bytes is nil, a Truncate.
type dataChange struct {
	at    int64
	bytes []byte
}

// nameChange is what one call did to names. A rename has two edges, which a loss of power does not
// separate, save where only one of two directories was synced.
type nameChange struct{ edges []edge }

// edge says what a name stands for from now on; nil: nothing.
type edge struct {
	dir  *node
	name string
	to   *node
}

// NewMem returns an empty directory.
func NewMem() *Mem {
	return newMem(newDir(0o700))
}

func newMem(root *node) *Mem {
	m := &Mem{root: root, locked: make(map[*node]string)}
	m.freed.L = &m.mu
	return m
}

func newDir(perm fs.FileMode) *node {
	return &node{
		mode: fs.ModeDir | perm.Perm(), changed: time.Now(),
		names: make(map[string]*node), durableNames: make(map[string]*node),
	}
}

// OpenFile opens or makes a file.
func (m *Mem) OpenFile(name string, flag int, perm fs.FileMode) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	call := Call(0)
	if flag&os.O_CREATE != 0 {
		call = CallCreate
	}
	if err := m.beginLocked("open", name, call); err != nil {
		return nil, err
	}
	n, err := m.openLocked(name, flag, perm)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return &memFile{m: m, node: n, name: name, flag: flag}, nil
}

func (m *Mem) openLocked(name string, flag int, perm fs.FileMode) (*node, error) {
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return nil, err
	}
	n := m.root
	if name != "." {
		n = dir.names[base]
	}
	writing := flag&(os.O_WRONLY|os.O_RDWR) != 0
	switch {
	case n == nil && flag&os.O_CREATE == 0:
		return nil, fs.ErrNotExist
	case n == nil:
		n = &node{mode: perm.Perm(), changed: time.Now()}
		m.nameLocked(edge{dir, base, n})
	case flag&os.O_CREATE != 0 && flag&os.O_EXCL != 0:
		return nil, fs.ErrExist
	case n.mode.IsDir():
		return nil, ErrNotRegular
	case flag&os.O_TRUNC != 0 && writing:
		n.truncate(0)
	}
	return n, nil
}

// MkdirAll makes a directory and its parents, durably. It is one call for [Mem.Calls], done whole
// or not at all.
func (m *Mem) MkdirAll(name string, perm fs.FileMode) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.beginLocked("mkdir", name, CallMkdir); err != nil {
		return err
	}
	if name == "." {
		return nil
	}
	dir := m.root
	for base := range strings.SplitSeq(name, "/") {
		n := dir.names[base]
		switch {
		case n == nil:
			n = newDir(perm)
			m.nameLocked(edge{dir, base, n})
		case !n.mode.IsDir():
			return &fs.PathError{Op: "mkdir", Path: name, Err: syscall.ENOTDIR}
		}
		m.settleLocked(func(e edge) bool { return e.dir == dir && e.name == base })
		dir = n
	}
	return nil
}

// Rename replaces the file that is there, if any.
func (m *Mem) Rename(oldname, newname string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := local("rename", newname); err != nil {
		return err
	}
	if err := m.beginLocked("rename", oldname, CallRename); err != nil {
		return err
	}
	if err := m.renameLocked(oldname, newname); err != nil {
		return &os.LinkError{Op: "rename", Old: oldname, New: newname, Err: err}
	}
	return nil
}

func (m *Mem) renameLocked(oldname, newname string) error {
	from, oldbase, err := m.parentLocked(oldname)
	if err != nil {
		return err
	}
	to, newbase, err := m.parentLocked(newname)
	if err != nil {
		return err
	}
	n, there := from.names[oldbase], to.names[newbase]
	switch {
	case oldname == "." || newname == ".":
		return fs.ErrInvalid
	case n == nil:
		return fs.ErrNotExist
	case n == there:
		return nil
	case n.mode.IsDir() && strings.HasPrefix(newname, oldname+"/"):
		return fs.ErrInvalid
	case there == nil:
	case there.mode.IsDir():
		return fs.ErrExist
	case n.mode.IsDir():
		return syscall.ENOTDIR
	}
	m.nameLocked(edge{from, oldbase, nil}, edge{to, newbase, n})
	return nil
}

// Remove removes a file or an empty directory. An open handle goes on working.
func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.beginLocked("remove", name, CallRemove); err != nil {
		return err
	}
	if err := m.removeLocked(name); err != nil {
		return &fs.PathError{Op: "remove", Path: name, Err: err}
	}
	return nil
}

func (m *Mem) removeLocked(name string) error {
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return err
	}
	n := dir.names[base]
	switch {
	case name == ".":
		return fs.ErrInvalid
	case n == nil:
		return fs.ErrNotExist
	case len(n.names) > 0:
		return syscall.ENOTEMPTY
	}
	m.nameLocked(edge{dir, base, nil})
	return nil
}

// ReadDir returns what a directory holds, by name.
func (m *Mem) ReadDir(name string) ([]fs.DirEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked("readdir", name, 0)
	if err != nil {
		return nil, err
	}
	if !n.mode.IsDir() {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: syscall.ENOTDIR}
	}
	entries := make([]fs.DirEntry, 0, len(n.names))
	for _, base := range slices.Sorted(maps.Keys(n.names)) {
		entries = append(entries, fs.FileInfoToDirEntry(n.names[base].info(base)))
	}
	return entries, nil
}

// Lstat says what a name stands for.
func (m *Mem) Lstat(name string) (fs.FileInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.findLocked("lstat", name, 0)
	if err != nil {
		return nil, err
	}
	return n.info(path.Base(name)), nil
}

// SyncDir makes the names in a directory durable, not what they stand for.
func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.hangLocked()
	n, err := m.findLocked("sync", name, CallSyncDir)
	if err != nil {
		return err
	}
	m.settleLocked(func(e edge) bool { return e.dir == n })
	return nil
}

// Lock locks a file, and makes it if need be. It does not count as a mutating call.
func (m *Mem) Lock(name string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.beginLocked("lock", name, 0); err != nil {
		return nil, err
	}
	n, err := m.openLocked(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: err}
	}
	if _, taken := m.locked[n]; taken {
		return nil, &fs.PathError{Op: "lock", Path: name, Err: ErrLocked}
	}
	m.locked[n] = name
	return &lock{release: sync.OnceValue(func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.locked, n)
		return nil
	})}, nil
}

// Close does nothing: a disk outlives those who use it, so that a test can open on it what it has
// closed.
func (m *Mem) Close() error { return nil }

// Crash says what is there after power failed now. From now on every call to m, and to its files,
// fails with ErrStopped.
//
// Seed 0 is the strictest disk: all that was not synced is lost. Any other seed draws what is kept
// of it, which is no less real: of each file nothing, all, or what came first, the last change of
// that torn and sometimes with zeros for blocks that were not written in time; and each change of
// names or not.
func (m *Mem) Crash(seed uint64) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopLocked()
	var draw *rand.Rand
	if seed != 0 {
		draw = rand.New(rand.NewPCG(seed, 0))
		for _, c := range m.changes {
			if draw.IntN(2) == 0 {
				continue
			}
			for _, e := range c.edges {
				e.settle()
			}
		}
	}
	m.changes = nil
	return newMem(m.root.afterCrash(draw, make(map[*node]*node)))
}

// Kill says what is there after the process was killed now: all that was written, but no open files
// and no locks. What was not synced is not durable yet. From now on every call to m, and to its
// files, fails with ErrStopped.
func (m *Mem) Kill() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stopLocked()
	after := newMem(m.root) // nobody reaches the nodes through m any more
	after.changes = m.changes
	return after
}

func (m *Mem) stopLocked() {
	m.stopped = true
	m.freed.Broadcast()
}

// findLocked begins a call and looks name up.
func (m *Mem) findLocked(op, name string, call Call) (*node, error) {
	if err := m.beginLocked(op, name, call); err != nil {
		return nil, err
	}
	dir, base, err := m.parentLocked(name)
	if err != nil {
		return nil, &fs.PathError{Op: op, Path: name, Err: err}
	}
	if name == "." {
		return m.root, nil
	}
	if n := dir.names[base]; n != nil {
		return n, nil
	}
	return nil, &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
}

// parentLocked returns the directory that name is in.
func (m *Mem) parentLocked(name string) (dir *node, base string, err error) {
	dir, base = m.root, path.Base(name)
	if parent := path.Dir(name); parent != "." {
		for part := range strings.SplitSeq(parent, "/") {
			next := dir.names[part]
			if next == nil {
				return nil, "", fs.ErrNotExist
			}
			if dir = next; !dir.mode.IsDir() {
				return nil, "", syscall.ENOTDIR
			}
		}
	}
	return dir, base, nil
}

// nameLocked changes names, as seen.
func (m *Mem) nameLocked(edges ...edge) {
	for _, e := range edges {
		set(e.dir.names, e.name, e.to)
		e.dir.changed = time.Now()
	}
	m.changes = append(m.changes, &nameChange{edges})
}

// settleLocked makes those edges durable that are chosen.
func (m *Mem) settleLocked(chosen func(edge) bool) {
	m.changes = slices.DeleteFunc(m.changes, func(c *nameChange) bool {
		c.edges = slices.DeleteFunc(c.edges, func(e edge) bool {
			if !chosen(e) {
				return false
			}
			e.settle()
			return true
		})
		return len(c.edges) == 0
	})
}

func (e edge) settle() { set(e.dir.durableNames, e.name, e.to) }

func set(names map[string]*node, name string, to *node) {
	if to == nil {
		delete(names, name)
		return
	}
	names[name] = to
}

// apply makes a change to bytes.
func (c dataChange) apply(to []byte) []byte {
	if c.bytes == nil {
		if c.at <= int64(len(to)) {
			return to[:c.at]
		}
		return append(to, make([]byte, c.at-int64(len(to)))...)
	}
	if gap := c.at - int64(len(to)); gap > 0 {
		to = append(to, make([]byte, gap)...)
	}
	overwritten := copy(to[c.at:], c.bytes)
	return append(to, c.bytes[overwritten:]...)
}

func (n *node) change(c dataChange) {
	n.data = c.apply(n.data)
	n.changes = append(n.changes, c)
	n.changed = time.Now()
}

func (n *node) truncate(size int64) { n.change(dataChange{at: size}) }

func (n *node) sync() {
	for _, c := range n.changes {
		n.durable = c.apply(n.durable)
	}
	n.changes = nil
}

// afterCrash copies what is durable. The same node keeps being one if it has two names.
func (n *node) afterCrash(draw *rand.Rand, done map[*node]*node) *node {
	if after := done[n]; after != nil {
		return after
	}
	after := &node{mode: n.mode, changed: n.changed}
	done[n] = after
	if n.mode.IsDir() {
		after.names = make(map[string]*node)
		for _, name := range slices.Sorted(maps.Keys(n.durableNames)) { // in order: a seed means one outcome
			after.names[name] = n.durableNames[name].afterCrash(draw, done)
		}
		after.durableNames = maps.Clone(after.names)
		return after
	}
	after.durable = bytes.Clone(n.durable)
	if draw != nil {
		for _, c := range torn(n.changes, draw) {
			after.durable = c.apply(after.durable)
		}
	}
	after.data = bytes.Clone(after.durable)
	return after
}

// torn draws what a disk has kept of changes.
func torn(changes []dataChange, draw *rand.Rand) []dataChange {
	const block = 512
	if len(changes) == 0 {
		return nil
	}
	switch draw.IntN(4) {
	case 0:
		return nil
	case 1:
		return changes
	}
	kept := slices.Clone(changes[:draw.IntN(len(changes))+1])
	last := &kept[len(kept)-1]
	if len(last.bytes) > 0 {
		last.bytes = bytes.Clone(last.bytes[:draw.IntN(len(last.bytes)+1)])
		if draw.IntN(4) == 0 { // the length was written, these blocks were not
			for at := 0; at < len(last.bytes); at += block {
				if draw.IntN(2) == 0 {
					clear(last.bytes[at:min(at+block, len(last.bytes))])
				}
			}
		}
	}
	return kept
}

func (n *node) info(name string) fs.FileInfo {
	return &memInfo{name: name, mode: n.mode, size: int64(len(n.data)), changed: n.changed}
}

type memInfo struct {
	name    string
	mode    fs.FileMode
	size    int64
	changed time.Time
}

func (i *memInfo) Name() string       { return i.name }
func (i *memInfo) Size() int64        { return i.size }
func (i *memInfo) Mode() fs.FileMode  { return i.mode }
func (i *memInfo) ModTime() time.Time { return i.changed }
func (i *memInfo) IsDir() bool        { return i.mode.IsDir() }
func (i *memInfo) Sys() any           { return nil }

// memFile is an open file of a Mem.
type memFile struct {
	m    *Mem
	node *node  // guarded by m.mu
	name string // as it was opened, for messages
	flag int

	at     int64 // guarded by m.mu
	closed bool  // guarded by m.mu
}

func (f *memFile) Read(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.beginLocked("read", 0); err != nil {
		return 0, err
	}
	switch {
	case f.flag&os.O_WRONLY != 0:
		return 0, f.err("read", syscall.EBADF)
	case len(p) == 0:
		return 0, nil
	case f.at >= int64(len(f.node.data)):
		return 0, io.EOF
	}
	n := copy(p, f.node.data[f.at:])
	f.at += int64(n)
	return n, nil
}

func (f *memFile) Write(p []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.hangLocked()
	failed := f.beginLocked("write", CallWrite)
	_, fault := errors.AsType[*faultError](failed)
	switch {
	case fault && errors.Is(failed, syscall.ENOSPC):
		p = p[:len(p)/2] // a full disk takes what fits
	case failed != nil:
		return 0, failed
	}
	if f.flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return 0, f.err("write", syscall.EBADF)
	}
	if len(p) > 0 {
		if f.flag&os.O_APPEND != 0 {
			f.at = int64(len(f.node.data))
		}
		f.node.change(dataChange{f.at, bytes.Clone(p)})
		f.at += int64(len(p))
	}
	return len(p), failed
}

func (f *memFile) Seek(offset int64, whence int) (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.beginLocked("seek", 0); err != nil {
		return 0, err
	}
	switch whence {
	case io.SeekCurrent:
		offset += f.at
	case io.SeekEnd:
		offset += int64(len(f.node.data))
	}
	if offset < 0 || whence < io.SeekStart || whence > io.SeekEnd {
		return 0, f.err("seek", syscall.EINVAL)
	}
	f.at = offset
	return offset, nil
}

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.beginLocked("truncate", CallTruncate); err != nil {
		return err
	}
	if size < 0 || f.flag&(os.O_WRONLY|os.O_RDWR) == 0 {
		return f.err("truncate", syscall.EINVAL)
	}
	f.node.truncate(size)
	return nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	f.m.hangLocked()
	if err := f.beginLocked("sync", CallSync); err != nil {
		if _, fault := errors.AsType[*faultError](err); fault {
			f.node.changes = nil // and no later Sync brings them back
		}
		return err
	}
	f.node.sync()
	return nil
}

func (f *memFile) Stat() (fs.FileInfo, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if err := f.beginLocked("stat", 0); err != nil {
		return nil, err
	}
	return f.node.info(path.Base(f.name)), nil
}

func (f *memFile) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return f.err("close", fs.ErrClosed)
	}
	f.closed = true
	return nil
}

func (f *memFile) beginLocked(op string, call Call) error {
	if f.closed {
		return f.err(op, fs.ErrClosed)
	}
	return f.m.beginLocked(op, f.name, call)
}

func (f *memFile) err(op string, err error) error {
	return &fs.PathError{Op: op, Path: f.name, Err: err}
}

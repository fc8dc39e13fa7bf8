package journal

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/redaside/aside/internal/vfs"
)

const (
	part1 = journalDir + "/0000000000000001.aof"
	part2 = journalDir + "/0000000000000002.aof"
	part4 = journalDir + "/0000000000000004.aof"
	part5 = journalDir + "/0000000000000005.aof"
)

func TestAJournalThatIsNotThereIsEmpty(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	assert.Equal(t, Report{}, j.report)
	assert.Zero(t, j.Mark())
	assert.Zero(t, j.Size())
	require.NoError(t, j.Close(t.Context()))
	assert.Empty(t, parts(t, m), "nothing written, no part")
}

func TestWhatWasAppendedIsReadInOrder(t *testing.T) {
	j := open(t, vfs.NewMem(), Options{})
	records := []Record{set("a"), del("b"), {Op: Set, DB: 7, Key: "\x00\r\n", Value: "", Expires: 1, Stamp: "s"}, settle("a"), set("c")}
	require.NoError(t, j.Append(t.Context(), records[:3]...))
	j.AppendLazily(records[3])
	require.NoError(t, j.Append(t.Context(), records[4]))
	for i := range records {
		records[i].Seq = uint64(i + 1)
	}
	records[3].KeyHash, records[3].Key = HashKey("a"), ""
	again := j.again(Options{})
	assert.Equal(t, records, again.records)
	assert.Equal(t, uint64(5), again.Mark())
	assert.Equal(t, Report{Parts: 1, Records: 5, Last: 5}, again.report)

	again.set("d")
	third := again.again(Options{})
	assert.Equal(t, "a -b \x00\r\n x c d", third.keys())
	assert.Equal(t, 2, third.report.Parts, "nobody appends to what another has written")
}

func TestOptionsThatCannotBeAreAllNamed(t *testing.T) {
	_, _, err := Open(vfs.NewMem(), journalDir, Options{Sync: 9, PartBytes: -1, MaxRecordBytes: 5, FirstSeq: maxSeq + 1}, nil)
	for _, field := range []string{"Sync is 9", "PartBytes is -1", "MaxRecordBytes is 5", "FirstSeq is"} {
		require.ErrorContains(t, err, field)
	}
}

func TestTornIsCutOff(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	for n := range part {
		m := vfs.NewMem()
		writeFile(t, m, part1, part[:n])
		j := open(t, m, Options{})
		whole := 0
		for at[whole+1] <= n {
			whole++
		}
		require.Len(t, j.records, whole)
		require.Empty(t, j.report.Damages)
		require.NoError(t, errors.Join(j.report.Problems...))
		require.Equal(t, int64(at[whole]), j.Size())
		if torn := n - at[whole]; n == 0 {
			require.Equal(t, Damage{Part: part1, Reason: nothing, Tail: true}, *j.report.Torn)
		} else if torn == 0 {
			require.Nil(t, j.report.Torn)
		} else {
			require.Equal(t, Damage{Part: part1, Offset: int64(at[whole]), Length: int64(torn), Reason: j.report.Torn.Reason, Tail: true}, *j.report.Torn)
		}
		if whole == 0 {
			require.Empty(t, parts(t, m))
		} else {
			require.Equal(t, part[:at[whole]], readFile(t, m, part1))
			require.Equal(t, part[:at[whole]], readFile(t, m.Crash(0), part1), "durably")
		}
		_, err := j.fsys.Lstat("quarantine")
		require.Error(t, err)
		require.NoError(t, j.Close(t.Context()))
	}
}

func TestCorruptIsQuarantinedAndWhatIsAroundItIsKept(t *testing.T) {
	part, at := encodeAt(testSalt, 1, Record{Op: Set, DB: 3, Key: "k1", Value: "v", Expires: 1, Stamp: "s"}, set("k2"), set("k3"), del("k4"), set("k5"))
	damaged := bytes.Clone(part)
	damaged[at[1]+50] ^= 1
	damaged[at[3]+50] ^= 1
	m := vfs.NewMem()
	writeFile(t, m, part1, damaged)
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k3 k5", j.keys())
	assert.Equal(t, 3, j.records[0].DB)
	assert.Zero(t, j.records[1].DB, "although the SELECT before it is lost")
	assert.Nil(t, j.report.Torn)
	require.NoError(t, errors.Join(j.report.Problems...))
	assert.Equal(t, []Gap{{2, 2}, {4, 4}}, j.report.Gaps)
	require.Len(t, j.report.Damages, 2)
	for i, k := range []int{1, 3} {
		d := j.report.Damages[i]
		assert.Equal(t, part1, d.Part)
		assert.Equal(t, int64(at[k]), d.Offset)
		assert.Equal(t, int64(at[k+1]-at[k]), d.Length)
		assert.Equal(t, damaged[at[k]:at[k+1]], readFile(t, m, d.Saved))
		assert.Contains(t, string(readFile(t, m, d.Saved[:len(d.Saved)-len(".aof")]+".reason")), d.Reason)
	}
	assert.Len(t, files(t, m, "quarantine"), 4)

	j.set("k6")
	m = m.Crash(0)
	assert.Len(t, files(t, m, "quarantine"), 4, "durably")
	again := reopen(t, m, Options{})
	assert.Equal(t, "k1 k3 k5 k6", again.keys())
	assert.Equal(t, 3, again.records[0].DB)
	assert.Empty(t, again.report.Damages, "the part is whole again")
	require.NoError(t, again.Close(t.Context()))
}

func TestATornEndIsCorruptInAPartThatIsNotTheLast(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	m := vfs.NewMem()
	writeFile(t, m, part1, part[:at[2]+20])
	writeFile(t, m, part4, encode(testSalt, 3, set("k3"), set("k4")))
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k2 k3 k4", j.keys())
	assert.Nil(t, j.report.Torn)
	require.Len(t, j.report.Damages, 1)
	assert.Equal(t, part[at[2]:at[2]+20], readFile(t, m, j.report.Damages[0].Saved))
	assert.Empty(t, j.report.Gaps)
}

func TestAnEmptyLastPartDoesNotMakeTheOneBeforeCorrupt(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	m := vfs.NewMem()
	writeFile(t, m, part1, part[:at[2]+20])
	writeFile(t, m, part4, nil)
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k2", j.keys())
	assert.NotNil(t, j.report.Torn)
	assert.Empty(t, j.report.Damages)
	assert.Equal(t, []string{"0000000000000001.aof"}, parts(t, m))
	j.set("k3")
	assert.Equal(t, []string{"0000000000000001.aof", "0000000000000005.aof"}, parts(t, m), "no name is used twice")
}

// A part is begun for the record whose number it has. If that is in another part, or nobody has
// heard of it, a part without a record in it was given up when the disk refused it. Else what it
// held is lost, which without its file's name nobody would know of where it was the first.
func TestAPartThatWasEmptiedIsReported(t *testing.T) {
	four := encode(testSalt, 4, set("k4"))
	for name, c := range map[string]struct {
		parts   map[string][]byte
		damages int
		torn    bool
	}{
		"the first":                          {map[string][]byte{part1: nil, part4: four}, 1, false},
		"in between":                         {map[string][]byte{part1: encode(testSalt, 1, set("k1")), part2: nil, part4: four}, 1, false},
		"the last":                           {map[string][]byte{part4: four, part5: nil}, 0, true},
		"the only one":                       {map[string][]byte{part1: nil}, 0, true},
		"given up, and written again":        {map[string][]byte{part1: nil, part2: encode(testSalt, 1, set("k1"))}, 0, false},
		"given up, and its numbers, too":     {map[string][]byte{part1: nil, part4: encode(testSalt, 4, Record{Op: skip, Seq: 3, Slack: 1, Stamp: noStamp}, set("k4"))}, 0, false},
		"the last, for what another one has": {map[string][]byte{part4: encode(testSalt, 4, set("k4"), set("k5")), part5: nil}, 0, false},
	} {
		m := vfs.NewMem()
		for part, content := range c.parts {
			writeFile(t, m, part, content)
		}
		var log strings.Builder
		j := open(t, m, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
		assert.Len(t, j.report.Damages, c.damages, name)
		assert.Equal(t, c.torn, j.report.Torn != nil, name)
		for part, content := range c.parts {
			if content == nil && (c.damages > 0 || c.torn) {
				assert.Contains(t, log.String(), part, name)
			}
		}
		if c.damages == 0 && !c.torn {
			assert.Empty(t, log.String(), name)
		}
	}
}

func TestATornLastPartMayBeDamagedElsewhere(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(4)...)
	part[at[1]+50] ^= 1
	m := vfs.NewMem()
	writeFile(t, m, part1, part[:at[4]-1])
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k3", j.keys())
	assert.NotNil(t, j.report.Torn)
	assert.Len(t, j.report.Damages, 1)
}

func TestABadEndThatMayBeMoreThanOneRecordIsCorrupt(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(4)...)
	damaged := bytes.Clone(part)
	damaged[at[2]+50] ^= 1
	damaged[at[3]+50] ^= 1
	for name, c := range map[string]struct {
		content []byte
		keys    string
		from    int
	}{
		"two records": {damaged, "k1 k2", at[2]},
		// The salt of the first line is damaged, and so is its record: nothing that follows seems
		// to be of this part.
		"another salt": {append([]byte("#aside 1 fedcba9876543210"), append(bytes.Clone(part[25:60]), part[61:]...)...), "", 0},
	} {
		m := vfs.NewMem()
		writeFile(t, m, part1, c.content)
		m.FailAt(1, vfs.Fault{Err: syscall.ENOSPC, On: vfs.CallWrite})
		j := reopen(t, m, Options{})
		assert.Equal(t, c.keys, j.keys(), name)
		assert.Len(t, j.report.Problems, 1)
		assert.Nil(t, j.report.Torn)
		assert.Empty(t, j.report.Damages[0].Saved)
		assert.Equal(t, c.content, readFile(t, m, part1), "what could not be saved stays")
		require.NoError(t, j.Close(t.Context()))

		j = reopen(t, m, Options{})
		require.NoError(t, errors.Join(j.report.Problems...))
		assert.Equal(t, c.keys, j.keys(), name)
		assert.Nil(t, j.report.Torn)
		assert.Equal(t, c.content[c.from:], readFile(t, m, j.report.Damages[0].Saved), name)
		assert.Equal(t, int64(c.from), j.Size())
		require.NoError(t, j.Close(t.Context()))
	}
}

func TestAPartThatIsAllDamageGoesToTheQuarantine(t *testing.T) {
	for name, content := range map[string][]byte{
		"not the last": bytes.Repeat([]byte("x"), 1000),
		"another's":    []byte("*1\r\n$4\r\nPING\r\n"),
	} {
		m := vfs.NewMem()
		writeFile(t, m, part1, content)
		if name == "not the last" {
			writeFile(t, m, part4, encode(testSalt, 4, set("k4")))
		}
		j := open(t, m, Options{})
		require.Len(t, j.report.Damages, 1)
		assert.Nil(t, j.report.Torn)
		assert.Equal(t, content, readFile(t, m, j.report.Damages[0].Saved))
		assert.NotContains(t, parts(t, m), "0000000000000001.aof")
	}
}

func TestANewerVersionIsLeftUntouched(t *testing.T) {
	damaged := encode(testSalt, 1, numbered(3)...)
	damaged[200] ^= 1
	newer, err := os.ReadFile("testdata/v4.aof")
	require.NoError(t, err)
	m := vfs.NewMem()
	writeFile(t, m, part1, damaged)
	writeFile(t, m, part4, newer)
	writeFile(t, m, part1+temporary, []byte("x"))
	_, _, err = Open(m, journalDir, Options{}, func(Record) error {
		t.Error("nothing is handed over")
		return nil
	})
	var version *VersionError
	require.ErrorAs(t, err, &version)
	assert.Equal(t, VersionError{Part: part4, Version: 4}, *version)
	for _, word := range []string{part4, "version 4", "newer aside wrote it", "move the directory away"} {
		require.ErrorContains(t, err, word)
	}
	assert.Equal(t, damaged, readFile(t, m, part1))
	assert.Equal(t, newer, readFile(t, m, part4))

	// In the middle of a part, where nobody writes one.
	require.NoError(t, m.Remove(part4))
	mixed := append(encode(testSalt, 1, numbered(2)...), newer...)
	writeFile(t, m, part1, mixed)
	_, _, err = Open(m, journalDir, Options{}, func(Record) error { return nil })
	require.ErrorAs(t, err, &version)
	assert.Equal(t, part1, version.Part)
	assert.Equal(t, mixed, readFile(t, m, part1))

	require.NoError(t, m.Remove(part1)) // the remedy
	j := open(t, m, Options{})
	assert.Empty(t, j.records)
}

func TestNumbersThatComeAgainAreHandedOverOnce(t *testing.T) {
	m := vfs.NewMem()
	writeFile(t, m, part1, encode(testSalt, 1, numbered(3)...))
	writeFile(t, m, part4, encode("fedcba9876543210", 2, numbered(4)[1:]...))
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k2 k3 k4", j.keys())
	assert.Equal(t, 2, j.report.Duplicates)
	assert.Empty(t, j.report.Gaps)
}

func TestAMissingPartIsAGap(t *testing.T) {
	m := vfs.NewMem()
	writeFile(t, m, part1, encode(testSalt, 1, numbered(3)...))
	writeFile(t, m, journalDir+"/0000000000000009.aof", encode(testSalt, 9, set("k9")))
	j := reopen(t, m, Options{})
	assert.Equal(t, []Gap{{4, 8}}, j.report.Gaps)
	require.NoError(t, j.Close(t.Context()))
}

// Whoever swaps two parts, or gives one the number of another, takes nothing from us: numbers tell
// where a part belongs.
func TestPartsThatWereRenamedAreReadInTheirOrder(t *testing.T) {
	one, four := encode(testSalt, 1, numbered(3)...), encode(testSalt, 4, set("k4"), settle("k2"), set("k5"))
	m := vfs.NewMem()
	writeFile(t, m, part1, four)
	writeFile(t, m, part4, one)
	j := open(t, m, Options{})
	assert.Equal(t, "k1 k2 k3 k4 x k5", j.keys())
	assert.Empty(t, j.report.Gaps)
	assert.Zero(t, j.report.Duplicates)
	j.set("k6")
	assert.Equal(t, "k1 k2 k3 k4 x k5 k6", j.again(Options{}).keys())
}

func TestNumbersGoOn(t *testing.T) {
	m := vfs.NewMem()
	j := open(t, m, Options{})
	j.set("a", "b")
	assert.Equal(t, uint64(2), j.Mark())
	j = j.again(Options{FirstSeq: 2})
	j.set("c")
	assert.Equal(t, uint64(3), j.Mark(), "something is left, so it knows better")
	j = j.again(Options{FirstSeq: 10})
	assert.Equal(t, uint64(3), j.Mark())
	j.set("d")
	assert.Equal(t, uint64(10), j.Mark())
	j = j.again(Options{})
	assert.Equal(t, "a b c d", j.keys())
	assert.Empty(t, j.report.Gaps, "4 to 9 were never given")
	require.NoError(t, j.Drop(j.Mark()))
	j = j.again(Options{FirstSeq: 20})
	assert.Equal(t, uint64(19), j.Mark())
	j.set("e")
	assert.Equal(t, uint64(20), j.again(Options{}).records[0].Seq)
}

func TestOpenStopsWhereEachSaysSo(t *testing.T) {
	damaged := encode(testSalt, 1, numbered(3)...)
	damaged[200] ^= 1
	m := vfs.NewMem()
	writeFile(t, m, part1, damaged)
	enough := errors.New("enough")
	_, _, err := Open(m, journalDir, Options{}, func(Record) error { return enough })
	assert.Same(t, enough, err)
	assert.Equal(t, damaged, readFile(t, m, part1), "nothing was changed")
}

func TestStrangersInTheDirectoryAreLeftAlone(t *testing.T) {
	m := vfs.NewMem()
	for _, name := range []string{"README", "1.aof", "000000000000000x.aof", "0000000000000001.aof.bak", "0000000000000000.aof"} {
		writeFile(t, m, journalDir+"/"+name, []byte("x"))
	}
	require.NoError(t, m.MkdirAll(journalDir+"/0000000000000007.aof", 0o700))
	before := parts(t, m)
	writeFile(t, m, part1+temporary, []byte("x"))
	j := open(t, m, Options{})
	assert.Equal(t, before, parts(t, m), "but what a mending left is removed")
	require.Len(t, j.report.Problems, 1, "something else stands where a part belongs")
	require.ErrorContains(t, j.report.Problems[0], "0000000000000007.aof")
	j.report.Problems = nil
	assert.Equal(t, Report{}, j.report)
}

// A disk that is read-only must not keep anybody from reading what is on it.
func TestADiskThatRefusesToBeMendedIsReadAllTheSame(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(4)...)
	part[at[1]+50] ^= 1
	m := vfs.NewMem()
	writeFile(t, m, part1, part)
	writeFile(t, m, part4, part[:at[1]+5])
	m.FailAt(1, vfs.Fault{Err: syscall.EROFS, Sticky: true})
	j := reopen(t, m, Options{})
	assert.Equal(t, "k1 k3 k4", j.keys())
	assert.NotEmpty(t, j.report.Problems)
	require.ErrorIs(t, errors.Join(j.report.Problems...), syscall.EROFS)
	assert.Equal(t, part, readFile(t, m, part1))
	require.ErrorIs(t, j.Append(t.Context(), set("k5")), syscall.EROFS)
	require.NoError(t, j.Close(t.Context()))

	m.Heal()
	again := reopen(t, m, Options{})
	assert.Equal(t, "k1 k3 k4", again.keys())
	assert.Empty(t, again.report.Problems)
	require.NoError(t, again.Close(t.Context()))
	third := reopen(t, m, Options{})
	assert.Empty(t, third.report.Damages)
	require.NoError(t, third.Close(t.Context()))
}

func TestWhatIsInTheQuarantineIsNotOverwrittenAndNotSavedTwice(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	m := vfs.NewMem()
	damage := func(i int) {
		damaged := bytes.Clone(part)
		damaged[i] ^= 1
		writeFile(t, m, part1, damaged)
		j := reopen(t, m, Options{})
		require.Len(t, j.report.Damages, 1)
		require.NoError(t, j.Close(t.Context()))
	}
	damage(at[1] + 50)
	damage(at[1] + 50)
	require.Len(t, files(t, m, "quarantine"), 2, "the same bytes")
	damage(at[1] + 51)
	require.Len(t, files(t, m, "quarantine"), 4, "others at the same place")
}

func TestOpenCanBeInterruptedAnywhere(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(6)...)
	damaged := bytes.Clone(part)
	damaged[at[1]+50] ^= 1
	damaged[at[4]+50] ^= 1
	setUp := func() *vfs.Mem {
		m := vfs.NewMem()
		writeFile(t, m, part1, damaged)
		writeFile(t, m, part4, append(encode(testSalt, 7, set("k7")), "#aside 1 torn"...))
		writeFile(t, m, journalDir+"/0000000000000008.aof", nil)
		return m
	}
	whole := func(m *vfs.Mem, n int, how string) {
		j := reopen(t, m, Options{})
		require.Equal(t, "k1 k3 k4 k6 k7", j.keys(), "%s before call %d", how, n)
		require.NoError(t, errors.Join(j.report.Problems...))
		require.Len(t, files(t, m, "quarantine"), 4, "%s before call %d", how, n)
		require.NoError(t, j.Close(t.Context()))
		j = reopen(t, m, Options{})
		require.Equal(t, "k1 k3 k4 k6 k7", j.keys())
		require.Empty(t, j.report.Damages)
		require.Nil(t, j.report.Torn)
		require.NoError(t, j.Close(t.Context()))
	}
	for n := 1; ; n++ {
		seeds := uint64(6)
		done := false
		for seed := range seeds {
			m := setUp()
			calls := m.Calls()
			m.CutAt(n)
			j, _, err := Open(m, journalDir, Options{}, func(Record) error { return nil })
			if err == nil {
				_ = j.Close(t.Context())
			}
			done = m.Calls()-calls < n
			if seed == 0 {
				m2 := m.Kill()
				whole(m2, n, "kill")
				m = setUp()
				m.CutAt(n)
				if j, _, err := Open(m, journalDir, Options{}, func(Record) error { return nil }); err == nil {
					_ = j.Close(t.Context())
				}
			}
			whole(m.Crash(seed), n, "crash")
		}
		for _, fault := range []vfs.Fault{vfs.FaultIO, vfs.FaultNoSpace, {Err: syscall.EIO, Sticky: true}} {
			m := setUp()
			m.FailAt(n, fault)
			j := reopen(t, m, Options{})
			require.Equal(t, "k1 k3 k4 k6 k7", j.keys())
			_ = j.Close(t.Context())
			m.Heal()
			whole(m.Crash(uint64(n)), n, "fault")
		}
		if done {
			require.Greater(t, n, 20)
			return
		}
	}
}

func TestWhatOpenHandsOverIsDurable(t *testing.T) {
	m := vfs.NewMem()
	j := reopen(t, m, Options{Sync: OS})
	j.set("a", "b") // b is not synced
	m = m.Kill()
	j = reopen(t, m, Options{})
	require.Equal(t, "a b", j.keys())
	j = reopen(t, m.Crash(0), Options{})
	require.Equal(t, "a b", j.keys())
	require.NoError(t, j.Close(t.Context()))
}

func TestOpenOnARealDisk(t *testing.T) {
	fsys, err := vfs.Open(t.TempDir())
	require.NoError(t, err)
	defer fsys.Close()
	j := reopen(t, fsys, Options{})
	j.set("a", "b")
	require.NoError(t, j.Close(t.Context()))
	name := journalDir + "/" + parts(t, fsys)[0]
	content := readFile(t, fsys, name)
	content[len(content)-30] ^= 1
	writeFile(t, fsys, name, append(content, encode(testSalt, 3, set("c"))...))
	j = reopen(t, fsys, Options{})
	assert.Equal(t, "a", j.keys(), "c has another salt")
	assert.Len(t, j.report.Damages, 1, "and may be a record that was acknowledged")
	info, err := fsys.Lstat(name)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o600), info.Mode())
	require.NoError(t, j.Close(t.Context()))
}

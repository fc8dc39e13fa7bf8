package journal

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestScanYieldsRecordsAndWhereTheyAre(t *testing.T) {
	part, at := encodeAt(testSalt, 7, set("a"), del("b"), settle("a"))
	var offsets []int64
	found, err := Scan(bytes.NewReader(part), func(r Record, offset int64) error {
		offsets = append(offsets, offset)
		return nil
	})
	require.NoError(t, err)
	assert.Equal(t, []int64{0, int64(at[1]), int64(at[2])}, offsets)
	assert.Equal(t, Findings{Records: 3, Bytes: int64(len(part)), First: 7, Last: 9}, found)
}

func TestScanOfNothingFindsNothing(t *testing.T) {
	_, found := scanned(t, nil)
	assert.Equal(t, Findings{}, found)
}

func TestScanReadsWhatComesInAnyPieces(t *testing.T) {
	part := encode(testSalt, 1, append(numbered(20), Record{Op: Set, Key: "big", Value: strings.Repeat("x", 3*minChunk), Expires: 1, Stamp: "s"})...)
	want, _ := scanned(t, part)
	require.Len(t, want, 21)
	for _, pieces := range []io.Reader{
		iotest.OneByteReader(bytes.NewReader(part)), iotest.HalfReader(bytes.NewReader(part)), iotest.DataErrReader(bytes.NewReader(part)),
	} {
		var got []Record
		_, err := Scan(pieces, func(r Record, _ int64) error { got = append(got, r); return nil })
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}

func TestScanStopsWhereEachSaysSo(t *testing.T) {
	enough := errors.New("enough")
	n := 0
	found, err := Scan(bytes.NewReader(encode(testSalt, 1, numbered(3)...)), func(Record, int64) error {
		if n++; n == 2 {
			return enough
		}
		return nil
	})
	assert.Same(t, enough, err)
	assert.Equal(t, uint64(2), found.Last)
	assert.Equal(t, 2, n)
}

func TestScanSaysThatItCannotRead(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	broken := errors.New("broken")
	n := 0
	found, err := Scan(io.MultiReader(bytes.NewReader(part[:at[2]+5]), iotest.ErrReader(broken)), func(Record, int64) error { n++; return nil })
	require.ErrorIs(t, err, broken)
	assert.Equal(t, 2, n)
	assert.Equal(t, 2, found.Records)
	assert.Empty(t, found.Damages, "what could not be read is not damaged")

	_, err = Scan(endless{}, func(Record, int64) error { return nil })
	require.ErrorIs(t, err, io.ErrNoProgress)
}

type endless struct{}

func (endless) Read([]byte) (int, error) { return 0, nil }

func TestATornEndIsDamageAtTheTail(t *testing.T) {
	part, at := encodeAt(testSalt, 1, set("a"), settle("a"), del("b"))
	for n := range part {
		records, found := scanned(t, part[:n])
		whole := 0
		for whole+1 < len(at) && at[whole+1] <= n {
			whole++
		}
		require.Len(t, records, whole, n)
		if n == at[whole] {
			require.Empty(t, found.Damages)
			continue
		}
		require.Len(t, found.Damages, 1, n)
		d := found.Damages[0]
		require.Equal(t, int64(at[whole]), d.Offset)
		require.Equal(t, int64(n-at[whole]), d.Length)
		require.True(t, d.Tail)
	}
}

func TestZerosAtTheEndAreDamageAtTheTail(t *testing.T) {
	part := encode(testSalt, 1, set("a"))
	for _, n := range []int{1, 100, 5000, 3 * minChunk} {
		records, found := scanned(t, append(bytes.Clone(part), make([]byte, n)...))
		assert.Len(t, records, 1)
		assert.Equal(t, []Damage{{Offset: int64(len(part)), Length: int64(n), Reason: zeros, Tail: true}}, found.Damages)
	}
}

func TestAByteThatIsWrongCostsItsRecordOnly(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	want, _ := scanned(t, part)
	for i := range part {
		for _, bit := range []byte{1, 2, 4, 0x80} {
			damaged := bytes.Clone(part)
			damaged[i] ^= bit
			hit := 0
			for at[hit+1] <= i {
				hit++
			}
			records, found := scanned(t, damaged)
			var others []Record
			for k, r := range want {
				if k != hit {
					others = append(others, r)
				}
			}
			require.Equal(t, others, records, "byte %d %q became %q", i, part[i], damaged[i])
			require.Len(t, found.Damages, 1)
			d := found.Damages[0]
			require.Equal(t, int64(at[hit]), d.Offset)
			require.Equal(t, int64(at[hit+1]-at[hit]), d.Length)
			require.Equal(t, hit == 2, d.Tail)
			if hit == 1 {
				require.Equal(t, []Gap{{2, 2}}, found.Gaps)
			} else {
				require.Empty(t, found.Gaps)
			}
		}
	}
}

func TestAStretchThatIsLostCostsItsRecordsOnly(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(6)...)
	records, found := scanned(t, append(bytes.Clone(part[:at[1]+30]), part[at[4]-10:]...)) // cut out
	assert.Equal(t, "k1 k5 k6", keys(records))
	assert.Equal(t, []Damage{{Offset: int64(at[1]), Length: 40, Reason: badCommand}}, relabel(found.Damages, badCommand))
	assert.Equal(t, []Gap{{2, 4}}, found.Gaps)

	garbage := append(bytes.Clone(part[:at[2]]), "garbage\r\n#aside \r\n#aside 1 \r\n"...)
	records, found = scanned(t, append(garbage, part[at[2]:]...)) // pushed in
	assert.Equal(t, "k1 k2 k3 k4 k5 k6", keys(records))
	assert.Equal(t, []Damage{{Offset: int64(at[2]), Length: 29, Reason: noAnnotation, Begins: 2}}, found.Damages)
	assert.Empty(t, found.Gaps)
}

// relabel replaces reasons that do not matter to a test.
func relabel(damages []Damage, reason string) []Damage {
	for i := range damages {
		damages[i].Reason = reason
	}
	return damages
}

func TestDamageCostsOnlyTheRecordsThatItHits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		records := rapid.SliceOfN(rapid.Custom(drawRecord), 1, 20).Draw(t, "records")
		part, at := encodeAt(testSalt, 1, records...)
		from := rapid.IntRange(0, len(part)-1).Draw(t, "from")
		to := rapid.IntRange(from, min(len(part), from+600)).Draw(t, "to")
		fill := rapid.OneOf(rapid.Just([]byte(nil)), rapid.SliceOfN(rapid.Byte(), 0, 600), rapid.Just(make([]byte, to-from))).Draw(t, "fill")
		damaged := slices.Concat(part[:from], fill, part[to:])
		var want []uint64
		for i := range records {
			if at[i+1] <= from || at[i] >= to {
				want = append(want, uint64(i+1))
			}
		}
		var got []uint64
		found, err := Scan(bytes.NewReader(damaged), func(r Record, _ int64) error {
			got = append(got, r.Seq)
			return nil
		})
		if _, ok := errors.AsType[*VersionError](err); ok {
			return // "#aside 1 1…" without the space: in doubt, nothing is touched
		}
		require.NoError(t, err)
		require.Equal(t, int64(len(damaged)), found.Bytes)
		for _, seq := range want {
			require.Contains(t, got, seq)
		}
		require.True(t, slices.IsSorted(got))
		if !bytes.Equal(part, damaged) && len(want) == len(records) {
			require.Equal(t, want, got) // something was pushed in between
			require.NotEmpty(t, found.Damages)
		}
	})
}

// Without the salt, the second record here would be "found" within the value of the first when that
// is torn: whoever can choose a value could have us replay what he likes.
func TestAValueCannotPassForRecords(t *testing.T) {
	forged := "\r\n" + string(encode("fedcba9876543210", 2, set("forged"))) + strings.Repeat("x", 100)
	for name, records := range map[string][]Record{
		"in the first record":  {{Op: Set, Key: "a", Value: forged, Expires: 1, Stamp: "s"}},
		"in a later record":    {set("first"), {Op: Set, Key: "a", Value: forged, Expires: 1, Stamp: "s"}},
		"before other records": {set("first"), {Op: Set, Key: "a", Value: forged, Expires: 1, Stamp: "s"}, set("last")},
	} {
		part, at := encodeAt(testSalt, 1, records...)
		for n := at[len(at)-2]; n < len(part); n++ {
			got, _ := scanned(t, part[:n])
			require.NotContains(t, keys(got), "forged", name)
		}
		for i := range part {
			damaged := bytes.Clone(part)
			damaged[i] ^= 2
			got, _ := scanned(t, damaged)
			if found := strings.Contains(keys(got), "forged"); found {
				// The limit that the package comment names.
				require.Less(t, i, at[1])
				require.Less(t, i, bytes.Index(part, []byte("value"))+200)
				require.Equal(t, "in the first record", name)
			}
		}
	}
}

func TestALengthThatIsWrongDoesNotHideWhatFollows(t *testing.T) {
	part := encode(testSalt, 1, numbered(50)...)
	for _, length := range []string{"0", "1", "12", "250", "4000", "999999", "599999999", "700000000", "18446744073709551615", "99999999999999999999999", "-1", "", "07"} {
		damaged := bytes.Replace(part, []byte("$11\r\nvalue of k5\r\n"), []byte("$"+length+"\r\nvalue of k5\r\n"), 1)
		require.NotEqual(t, part, damaged)
		records, found := scanned(t, damaged)
		assert.Len(t, records, 49, length)
		assert.Len(t, found.Damages, 1, length)
		assert.Equal(t, []Gap{{5, 5}}, found.Gaps)
	}
}

func TestMemoryDoesNotFollowWhatALengthClaims(t *testing.T) {
	part := bytes.Replace(encode(testSalt, 1, set("a")), []byte("$10\r\n"), []byte("$599999999\r\n"), 1)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, found := scanned(t, part)
	runtime.ReadMemStats(&after)
	assert.Equal(t, incomplete, found.Damages[0].Reason)
	assert.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4*minChunk))
}

func TestARecordBeyondTheBoundIsDamage(t *testing.T) {
	part := encode(testSalt, 1, set("a"), Record{Op: Set, Key: "b", Value: strings.Repeat("x", 5000), Expires: 1, Stamp: "s"}, set("c"))
	var got []Record
	found, err := scan(bytes.NewReader(part), 4000, func(r *Record, _ string, _ int64) error { got = append(got, *r); return nil })
	require.NoError(t, err)
	assert.Equal(t, "a c", keys(got))
	require.Len(t, found.Damages, 1)
	assert.Equal(t, badLength, found.Damages[0].Reason)
}

func TestANewerVersionIsNoDamage(t *testing.T) {
	old, newer := encode(testSalt, 1, numbered(2)...), "#aside 4 0123456789abcdef 3 whatever it is\r\nmore\r\n"
	for _, part := range []string{
		newer,
		newer + string(old),
		string(old) + newer, // nobody writes such a part, but nothing is lost by asking
		"#aside 30 x\r\n",
		"#aside 18446744073709551615 x\r\n",
		"garbage\n" + newer,
	} {
		var version *VersionError
		_, err := Scan(strings.NewReader(part), func(Record, int64) error { return nil })
		require.ErrorAs(t, err, &version, "%q", part)
		_, isOld, _ := strings.Cut(part[version.Offset:], "#aside 1")
		assert.True(t, strings.HasPrefix(part[version.Offset:], magic) && !strings.HasPrefix(isOld, "#aside 1"))
	}
	for _, part := range []string{"#aside 3", "#aside 0 x\r\n", "#aside 03 x\r\n", "#aside  3 x\r\n", "#aside x\r\n", "#aside 99999999999999999999 x\r\n"} {
		_, found := scanned(t, []byte(part))
		assert.Len(t, found.Damages, 1, "%q", part)
	}
}

func TestADamagedVersionIsDamage(t *testing.T) {
	part, at := encodeAt(testSalt, 1, numbered(3)...)
	for _, i := range at[:3] {
		damaged := bytes.Clone(part)
		damaged[i+len(magic)] = '3'
		records, found := scanned(t, damaged)
		assert.Len(t, records, 2)
		require.Len(t, found.Damages, 1)
		assert.Equal(t, badVersion, found.Damages[0].Reason)
	}
}

func TestPartsOneBehindTheOtherAreOnePart(t *testing.T) {
	a, b := encode(testSalt, 1, numbered(2)...), encode("fedcba9876543210", 3, numbered(2)...)
	records, found := scanned(t, append(a, b...))
	assert.Len(t, records, 4)
	assert.Empty(t, found.Damages)
}

func TestNumbersThatWereGivenUpAreNotMissing(t *testing.T) {
	write := func(records ...Record) []byte {
		var part []byte
		db := noDB
		for i := range records {
			part, db = appendRecord(part, &records[i], testSalt, db)
		}
		return part
	}
	at := func(seq uint64) Record { r := set("k"); r.Seq = seq; return r }
	givenUp := func(from, to uint64) Record { return Record{Op: skip, Seq: to, Slack: int64(from), Stamp: noStamp} }
	for _, c := range []struct {
		part []byte
		gaps []Gap
	}{
		{write(at(5), at(6)), nil},
		{write(at(5), at(7)), []Gap{{6, 6}}},
		{write(at(5), givenUp(6, 9), at(10)), nil},
		{write(at(5), givenUp(8, 9), at(10)), []Gap{{6, 7}}},
		{write(at(5), givenUp(6, 9), at(11)), []Gap{{10, 10}}},
		{write(givenUp(6, 9), at(10)), nil},
		{write(at(5), givenUp(4, 9), at(10)), nil},
		{write(at(5), givenUp(2, 4), at(6)), nil},
		{write(at(5), at(5), at(4), at(6)), nil},
	} {
		_, found := scanned(t, c.part)
		assert.Equal(t, c.gaps, found.Gaps, "%s", c.part)
		assert.Empty(t, found.Damages)
	}
}

func BenchmarkScan(b *testing.B) {
	part := encode(testSalt, 1, numbered(10000)...)
	b.SetBytes(int64(len(part)))
	for b.Loop() {
		_, err := Scan(bytes.NewReader(part), func(Record, int64) error { return nil })
		if err != nil {
			b.Fatal(err)
		}
	}
}

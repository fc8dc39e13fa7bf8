// Package journal is an append-only journal of writes that were not made in Redis yet, kept as
// genuine Redis append-only files (AOF): redis-check-aof accepts a part, and Redis from version 7
// on loads one. (That is for people who want to look: what is in a journal may have been superseded
// in Redis, which only a replay with stamps can tell.)
//
//	j, report, err := journal.Open(fsys, "journal", journal.Options{}, func(r journal.Record) error { … })
//	err = j.Append(ctx, journal.Record{Op: journal.Set, Key: "k", Value: "v", Expires: ms, Stamp: stamp})  // durable
//	j.AppendLazily(journal.Record{Op: journal.Settle, Key: "k", Stamp: stamp})                           // soon
//	mark := j.Mark(); …; err = j.Drop(mark)                                                              // not needed any more
//
// # On disk
//
//	<dir>/<number, 16 digits>.aof              a part; format.go has the picture
//	<dir>/<number, 16 digits>.aof.tmp          a part that was being mended
//	<quarantine>/<number>-<offset>.aof         bytes of a part that could not be read
//	<quarantine>/<number>-<offset>.reason      why
//
// Parts follow each other by their numbers. A part has the number of the first record that it was
// begun for, or a greater one if there is such a part already. A journal in which there is nothing
// leaves no part.
//
// # What is promised
//
// A record whose Append returned nil is read back, once and in the order of Seq, after a kill of
// the process; after a loss of power too, as Options.Sync says. One whose Append returned an error
// is read back whole or not at all. This holds while the disk keeps what it has acknowledged by
// fsync.
//
// A number stands for one record only. Numbers grow by one, unless some were given up, which the
// journal says (see skip); so a gap means that records are lost. When everything was dropped, the
// next Open does not know the last number and goes by Options.FirstSeq.
//
// # Recovery
//
// Open does this, and it can be interrupted anywhere and done again:
//
//  1. List the parts, in the order of the numbers of their first records, which is that of their
//     names unless somebody has renamed them. Remove what an interrupted mending has left.
//  2. If the first record of a part is of a newer version, return a [*VersionError]. Nothing was
//     changed or handed over. (One that turns up later, in step 3, is the same error: then nothing
//     was changed.)
//  3. Read each part. A record whose checksum is right is handed over, unless its number came
//     before: what was to be covered by an fsync that failed is written again to a new part. Where
//     there is no such record, go on at the next annotation with this part's salt that begins one;
//     what is between is damage.
//  4. Damage at the end of the last part, in which no other record begins, is torn: cut it off,
//     durably. So is a last part in which nothing is.
//  5. Other damage is corrupt: copy it to the quarantine, durably, then replace the part by one
//     without it. An empty part that others follow is corrupt, too, unless the disk had refused it:
//     then others have what it was begun for.
//  6. Remove parts in which nothing is left.
//  7. Sync the parts and the directory.
//  8. Go on with the next number. The next append begins a new part: nothing is ever appended to
//     what another process has written, so a part has one version and one salt.
//
// If the disk refuses one of the steps 4 to 7, Report.Problems has it, and the next Open does it.
//
// # Limits
//
// A last record that a disk has damaged after it was acknowledged looks like one that was torn, and
// is cut off; the Report and the log say so, and how many bytes. A first or last part whose file is
// gone leaves no trace. Damage that hits the first line of a part and leaves open where its record
// ends hides the salt, so that until the next record a value could pass for one.
package journal

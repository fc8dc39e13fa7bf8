// Package journal is an append-only journal of writes that were not made in Redis yet, kept as
// genuine Redis append-only files (AOF): redis-check-aof accepts a part, and Redis from version 7
// on loads one. (Use that to look at a journal only: its records may be superseded in Redis, and
// only a replay compares stamps.)
//
//	j, report, err := journal.Open(fsys, "journal", journal.Options{}, func(r journal.Record) error { … })
//	err = j.Append(ctx, journal.Record{Op: journal.Set, Key: "k", Value: "v", Expires: ms, Stamp: stamp})  // durable
//	j.AppendLazily(journal.Record{Op: journal.Settle, Key: "k", Stamp: stamp})                           // soon
//	mark := j.Mark(); …; err = j.Drop(mark)                                                              // not needed any more
//
// # On disk
//
//	<dir>/<number, 16 digits>.aof              a part; format.go has the picture
//	<dir>/<number, 16 digits>.aof.tmp          a part that was being repaired
//	<quarantine>/<number>-<offset>.aof         bytes of a part that could not be read
//	<quarantine>/<number>-<offset>.reason      why
//
// Parts follow each other by their numbers. A part has the number of the first record that it was
// begun for, or a greater one if there is such a part already. An empty journal leaves no part.
//
// # What is promised
//
// A record whose Append returned nil is read back, once and in the order of Seq, after a kill of
// the process; after a loss of power too, as Options.Sync says. A record whose Append returned an
// error is read back whole or not at all. This holds while the disk keeps what it has acknowledged
// by fsync.
//
// A number stands for one record only. Numbers grow by one, unless some were given up, which the
// journal notes (see skip); so a gap means that records are lost. When everything was dropped, the
// next Open does not know the last number, and uses Options.FirstSeq.
//
// # Recovery
//
// Open does this. It may be interrupted anywhere, and done again:
//
//  1. List the parts, in the order of the numbers of their first records, which is that of their
//     names unless they were renamed. Remove the rest of an interrupted repair.
//  2. If the first record of a part is of a newer version, return a [*VersionError]. Nothing was
//     changed or passed on. (A newer record that is found later, in step 3, gives the same error:
//     then nothing was changed.)
//  3. Read each part. A record whose checksum is right is passed on, unless its number came before:
//     records that a failed fsync was to cover are written again to a new part. Otherwise go on at
//     the next annotation with this part's salt that begins a record; the bytes between are damage.
//  4. Damage at the end of the last part, in which no other record begins, is torn: cut it off,
//     durably. So is an empty last part.
//  5. Other damage is corrupt: copy it to the quarantine, durably, then replace the part by one
//     without it. An empty part that others follow is corrupt, too, unless the disk had refused it:
//     then another part has its records.
//  6. Remove empty parts.
//  7. Sync the parts and the directory.
//  8. Go on with the next number. The next append begins a new part: nothing is ever appended to a
//     part of another process, so a part has one version and one salt.
//
// If the disk refuses one of the steps 4 to 7, Report.Problems has it, and the next Open does it.
//
// # Limits
//
// A last record that the disk has damaged after it was acknowledged looks torn, and is cut off; the
// Report and the log say how many bytes. A first or last part whose file is gone leaves no trace.
// Damage to the first line of a part that hides where its record ends also hides the salt, so that
// until the next record a value could pass for one.
package journal

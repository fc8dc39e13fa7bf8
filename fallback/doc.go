// Package fallback is what a client serves from and remembers in while Redis is away: a [Store],
// and a [Syncer] that brings what it remembers into Redis when that is back. [Open] keeps it in a
// directory:
//
//	<dir>/lock                          held by the process that has it open; says which
//	<dir>/journal/<sequence>.aof        what has happened, in order; a Redis append-only file, see package journal
//	<dir>/db/<n>/ab/cd/ef/<md5>.json    what is known of a key now; n is the Redis database, ab/cd/ef the first bytes of the key's MD5
//	<dir>/quarantine/                   what could not be read, kept for a person, each with a .reason beside it
//
// Everything in it is made with mode 0700 or 0600, and reached through an os.Root: no symbolic link
// leads out. Files are opened only if they are regular ones, and none that has a second name (a
// hard link) is written to.
//
// # A record's life
//
// Put writes records to the journal, and returns when they are as durable as Options.Sync says;
// concurrent callers share one fsync. Every FlushInterval, or when MaxQueue records wait, each that
// waits is written to its file; when that is durable the journal is dropped up to there. A fill
// goes to its file without the journal and without a sync: it may be lost. When Redis has answered
// for a record, Settle forgets it and its file is removed. After an outage nothing is left but the
// lock.
//
// The file is for people too, and for other programs: JSON, one field a line, its value readable if
// it can be; see file.go for the fields.
//
// # Opening
//
//  1. Lock the directory, or fail with ErrLocked.
//  2. Remove what was being written to a file when the process ended. The journal still has it.
//  3. Read each record file of this database into the index, and its value if there is room in
//     memory. One that cannot be read, or is empty, goes into quarantine, and the log names it; so
//     does one whose key belongs under another name, and whatever else stands where a record
//     belongs. What is larger than a record can be, or does not begin like one, is not read for
//     that. What a loss of power has left of a fill is removed, if it still says that it was one.
//  4. Read the journal, in order; package journal says what it does about torn and damaged parts.
//  5. Merge: of two explicit records of a key the one with the greater stamp stays, and either
//     replaces a fill. A settle marker cancels the record with its stamp, and older ones of that
//     key before it. Records of other databases are brought into the files of theirs.
//  6. Report, in one line of the log, if there was anything.
//
// It costs three folders and a file for each record that has one, about 40 µs where the disk's
// cache is warm, and some 300 bytes of memory beside the key; about 2 µs for each record in the
// journal.
//
// # What can be lost
//
// With Sync: Always, nothing that Put has accepted, neither when the process is killed nor when
// power fails, unless the disk lies about fsync or loses what it had. With the other modes, what
// power failure takes from the operating system. A disk that refuses is an error to whoever writes,
// and Stats.Err until it works again; reads go on, and what was accepted stays in the journal or
// the file that has it.
package fallback

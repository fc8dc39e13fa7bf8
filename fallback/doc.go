// Package fallback keeps writes and loaded values while Redis is away, in a [Store]; a [Syncer]
// replays them into Redis when that is back. [Open] keeps the Store in a directory:
//
//	<dir>/lock                          locked by the process that has it open; holds its id
//	<dir>/journal/<sequence>.aof        the writes since the last flush, in order; a Redis append-only file, see package journal
//	<dir>/db/<n>/ab/cd/ef/<md5>.json    the record of one key; n is the Redis database, ab/cd/ef the first bytes of the key's MD5
//	<dir>/quarantine/                   files that could not be read, each with a .reason beside it
//
// Folders have mode 0700 and files 0600, and all are reached through an os.Root: no symbolic link
// leads out. Only regular files are opened, and a file that has a second name (a hard link) is not
// written to.
//
// # A record's life
//
// Put writes records to the journal, and returns when they are as durable as Options.Sync says;
// concurrent callers share one fsync. Every FlushInterval, or when MaxQueue records wait, each
// waiting record is written to its file; when the files are durable the journal is dropped up to
// there. A fill goes to its file without the journal and without a sync: it may be lost. When Redis
// has answered for a record, Settle removes it from the index, and its file is removed. After an
// outage nothing is left but the lock.
//
// People and other programs can read the file: it is JSON, one field a line, with the value as text
// if it is text; file.go has the fields.
//
// # Opening
//
//  1. Lock the directory, or fail with ErrLocked.
//  2. Remove files that were being written when the process ended. The journal still has their
//     records.
//  3. Read each record file of this database into the index, and its value if there is room in
//     memory. A file that cannot be read, or is empty, goes into quarantine, and the log names it;
//     so does a file whose key belongs under another name, and anything else in the place of a
//     record. A file that is larger than a record can be, or does not begin like one, is not read
//     to the end. A fill that a loss of power has cut off is removed, if the rest still shows that
//     it was a fill.
//  4. Read the journal, in order; package journal describes how torn and damaged parts are treated.
//  5. Merge: of two explicit records of a key the one with the greater stamp stays, and an explicit
//     record replaces a fill. A settle marker cancels the record with its stamp, and older ones of
//     that key before it. Records of other databases are written to these databases' files.
//  6. Report, in one line of the log, if there was anything.
//
// Opening reads three folders and a file for each record that has one (about 40 µs with a warm disk
// cache), and takes some 300 bytes of memory beside the key; a record in the journal takes about 2
// µs.
//
// # What can be lost
//
// With Sync: Always, no record that Put has accepted is lost, neither when the process is killed
// nor when power fails, unless the disk lies about fsync or loses data. With the other modes, loss
// of power takes what the operating system had not written yet. When the disk returns errors,
// writers get them, and Stats.Err has the latest until the disk works again; reads go on, and
// accepted records stay in the journal or in their files.
package fallback

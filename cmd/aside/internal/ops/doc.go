// Package ops reads a fallback directory without owning it: it takes no lock and changes nothing,
// so it can be used beside the process that writes there. Package fallback defines the format; ops
// follows it.
//
// # Reading beside a writer
//
// A record goes to the journal, then to its file, and leaves the journal when the file is durable.
// So the journal is read first and the files after it: a record that has moved meanwhile is found
// in its file. A record that was settled meanwhile may still be shown; a record that was accepted
// after the reading began may be missing. Nothing else differs from what the next process with the
// directory would find.
package ops

// Package ops reads a fallback directory without having it: it takes no lock and changes nothing,
// so that it can be used beside the process that writes there. What the directory means is package
// fallback's to say; here its rules are followed, not made.
//
// # Reading beside a writer
//
// A record goes to the journal, then to its file, and leaves the journal when the file is durable.
// So the journal is read first and the files after it: what has moved meanwhile is found in its
// file. What Redis has answered for meanwhile may still be shown; what was accepted after the
// reading began may be missing. Nothing else differs from what the next process with the directory
// would find.
package ops

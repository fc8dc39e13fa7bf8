package main

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// folder is a FallbackDir, seen from outside.
type folder string

// found is what lies in it.
type found struct {
	parts   []string // of the journal, the oldest first
	records int      // files of one record each
	others  []string
	bytes   int64 // of all
}

func (f folder) look() (in found, err error) {
	err = filepath.WalkDir(string(f), func(name string, d fs.DirEntry, err error) error {
		var info fs.FileInfo
		if err == nil && !d.IsDir() {
			info, err = d.Info()
		}
		if errors.Is(err, fs.ErrNotExist) { // it has gone while we looked
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		in.bytes += info.Size()
		switch inside, _ := filepath.Rel(string(f), name); {
		case inside == "lock":
		case filepath.Dir(inside) == "journal":
			in.parts = append(in.parts, name)
		case strings.HasPrefix(inside, "db") && filepath.Ext(name) == ".json":
			in.records++
		default:
			in.others = append(in.others, inside)
		}
		return nil
	})
	slices.Sort(in.parts)
	return in, err
}

// fileOf is where the record of a key is, once it has a file. MD5 spreads the files over folders;
// that is all it is for.
func (f folder) fileOf(key string) string {
	sum := md5.Sum([]byte(key))
	name := hex.EncodeToString(sum[:])
	return filepath.Join(string(f), "db", "0", name[:2], name[2:4], name[4:6], name+".json")
}

func (f folder) has(key string) bool {
	_, err := os.Stat(f.fileOf(key))
	return err == nil
}

// show prints what lies in the folder, the last whole record of the journal, and the file of one
// key.
func (f folder) show(s *screen, key string) error {
	in, err := f.look()
	if err != nil {
		return err
	}
	s.say("%s holds %d KB:", f, (in.bytes+1023)/1024)
	var last string
	for _, part := range in.parts {
		content, err := os.ReadFile(part)
		if err != nil {
			return err
		}
		s.verbatim(fmt.Sprintf("%-52s %d records", "journal/"+filepath.Base(part), bytes.Count(content, []byte(annotation))))
		if record := lastRecord(content); record != "" {
			last = record
		}
	}
	file := f.fileOf(key)
	inside, _ := filepath.Rel(string(f), file)
	s.verbatim(inside, fmt.Sprintf("%-52s %d records", "   and others like it, one for each key:", in.records))
	if last != "" {
		head, commands, _ := strings.Cut(last, "\r\n")
		s.say("The last record in the journal: a comment for aside, then a Redis command.")
		s.verbatim(head, strings.ReplaceAll(strings.TrimSpace(commands), "\r\n", " "))
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	s.say("The file of %s, which needs no tool to be read:", key)
	s.verbatim(strings.Split(strings.TrimSpace(string(content)), "\n")...)
	return nil
}

const annotation = "#aside "

// lastRecord is the last record in a part of the journal. The kill may have torn one behind it.
func lastRecord(part []byte) string {
	at := bytes.LastIndex(part, []byte("\r\n"+annotation))
	if at < 0 {
		return string(part)
	}
	return string(part[at+2:])
}

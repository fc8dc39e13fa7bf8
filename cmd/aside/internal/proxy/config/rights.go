package config

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

const (
	othersRead  fs.FileMode = 0o004
	othersWrite fs.FileMode = 0o002
	othersEnter fs.FileMode = 0o001
)

// warnOfRights says which files with secrets, and whether the configuration, every user of the
// machine may read or change.
func (l *loader) warnOfRights() (warnings []string) {
	warn := func(what, path string, secret bool) {
		forbidden := othersWrite
		if secret {
			forbidden |= othersRead
		}
		if may := OthersMay(path, forbidden); may != "" {
			warnings = append(warnings, fmt.Sprintf("%s is %q, which every user of this machine may %s: take that away with chmod o= %s", what, path, may, path))
		}
	}
	inFile := func(name string) bool { return l.set[name].layer == layerFile }
	if l.file != "" {
		secret := inFile("redis.url") && strings.Contains(l.byName["redis.url"].value.String(), "@") ||
			slices.ContainsFunc(l.names, func(name string) bool { return l.byName[name].Secret && inFile(name) && !l.fromFile[name] })
		warn("the configuration file", l.file, secret)
	}
	for _, name := range l.names {
		s := l.byName[name]
		if path := s.value.String(); path != "" && (s.isFile() && l.fromFile[s.file.of] || strings.HasSuffix(name, ".tls.key")) {
			warn(name, path, true)
		}
	}
	return warnings
}

// OthersMay says what of modes (othersRead, othersWrite) users who are neither the owner nor of the
// group may do with a file or directory: "read", "write", "read and write"; "" for nothing, also
// where they cannot come to it, and where there are no such rights.
func OthersMay(path string, modes fs.FileMode) string {
	if runtime.GOOS == "windows" {
		return ""
	}
	path, err := filepath.Abs(path)
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "" // opening it reports that
	}
	info, err := os.Stat(path)
	if err != nil {
		return ""
	}
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		if above, err := os.Stat(dir); err != nil || above.Mode()&othersEnter == 0 {
			return ""
		}
		if dir == filepath.Dir(dir) {
			break
		}
	}
	var may []string
	if info.Mode()&modes&othersRead != 0 {
		may = append(may, "read")
	}
	if info.Mode()&modes&othersWrite != 0 {
		may = append(may, "write")
	}
	return strings.Join(may, " and ")
}

// WarnOfDirectory says that every user of the machine may change what is in a directory, or put
// another one in its place; "" if not.
func WarnOfDirectory(dir string) string {
	const remedy = "a write that they put there is replayed into Redis: take that away with chmod o-w %s"
	if OthersMay(dir, othersWrite) != "" {
		return fmt.Sprintf("fallback.dir is %q, which every user of this machine may write: "+remedy, dir, dir)
	}
	parent := filepath.Dir(dir)
	if info, err := os.Stat(parent); err == nil && info.Mode()&fs.ModeSticky == 0 && OthersMay(parent, othersWrite) != "" {
		return fmt.Sprintf("fallback.dir is %q, and every user of this machine may put another directory into its place: "+remedy, dir, parent)
	}
	return ""
}

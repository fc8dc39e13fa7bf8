// Modproxy writes a module proxy as a folder, with one version of one of this repository's modules,
// as the go command would make it from the repository:
//
//	modproxy -repo ../.. -dir cmd/aside -version v1.2.3 -revision cmd/aside/v1.2.3 -to /tmp/proxy
//	GOPROXY=file:///tmp/proxy go install github.com/redaside/aside/cmd/aside@v1.2.3
//
// A release needs it to know the checksum of the library that its commands require, before anybody
// can fetch that; the test of the release needs it to install them.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

const root = "github.com/redaside/aside"

func main() {
	log.SetFlags(0)
	repo := flag.String("repo", ".", "the repository")
	dir := flag.String("dir", "", "folder of the module; empty for the library")
	version := flag.String("version", "", "such as v1.2.3")
	revision := flag.String("revision", "HEAD", "tag or commit")
	to := flag.String("to", "", "folder of the proxy")
	flag.Parse()
	if *version == "" || *to == "" {
		log.Fatal("modproxy: -version and -to are needed")
	}
	if err := write(*repo, *dir, *version, *revision, *to); err != nil {
		log.Fatal("modproxy: ", err)
	}
}

func write(repo, dir, version, revision, to string) error {
	m := module.Version{Path: path.Join(root, dir), Version: version}
	escaped, err := module.EscapePath(m.Path)
	if err != nil {
		return err
	}
	folder := filepath.Join(to, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	mod, err := exec.Command("git", "-C", repo, "show", revision+":"+path.Join(dir, "go.mod")).Output()
	if err != nil {
		return fmt.Errorf("%s has no go.mod in %q: %w", revision, dir, err)
	}
	info, err := json.Marshal(struct {
		Version string
		Time    time.Time
	}{version, time.Now().UTC()})
	if err != nil {
		return err
	}
	archive, err := os.Create(filepath.Join(folder, version+".zip"))
	if err != nil {
		return err
	}
	if err := errors.Join(zip.CreateFromVCS(archive, m, repo, revision, dir), archive.Close()); err != nil {
		return err
	}
	for name, content := range map[string][]byte{version + ".mod": mod, version + ".info": info, "list": []byte(version + "\n")} {
		if err := os.WriteFile(filepath.Join(folder, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

package main

import (
	"github.com/redaside/aside/cmd/aside/internal/ops"
)

type verifyCmd struct {
	Dir  string `arg:"" help:"The fallback directory; nothing in it is changed, and a proxy may be using it."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help implements kong.HelpProvider.
func (*verifyCmd) Help() string {
	return "Every record's checksum is compared. Exit code 1: something is torn, corrupt, empty, renamed, foreign, missing, unreadable, in quarantine or of a newer version."
}

// verified is the JSON of `aside verify`.
type verified struct {
	Dir      string        `json:"dir"`
	OK       bool          `json:"ok"`
	Journal  journalJSON   `json:"journal"`
	Files    filesJSON     `json:"files"`
	Problems []problemJSON `json:"problems"`
}

type problemJSON struct {
	ops.Problem

	MayMiss bool   `json:"mayMiss"` // something that was acknowledged may be missing because of it
	Remedy  string `json:"remedy"`
}

func (c *verifyCmd) Run(e *env) error {
	found, err := ops.Read(c.Dir, func(ops.Record) error { return nil })
	if err != nil {
		return err
	}
	if c.JSON {
		out := verified{
			Dir: c.Dir, OK: len(found.Problems) == 0, Journal: journalJSON{found.Parts, found.Journaled, found.JournalBytes},
			Files: filesJSON{found.Files, found.FileBytes, found.Unfinished}, Problems: []problemJSON{},
		}
		for _, p := range found.Problems {
			out.Problems = append(out.Problems, problemJSON{p, p.Kind.MayMiss(), p.Kind.Remedy()})
		}
		if err := e.printJSON(out); err != nil {
			return err
		}
	} else {
		c.print(e, &found)
	}
	if len(found.Problems) > 0 {
		return errFound
	}
	return nil
}

func (c *verifyCmd) print(e *env, found *ops.Findings) {
	e.printf("journal     %s in %s, %s\n", count(found.Journaled, "record"), count(found.Parts, "part"), byteCount(found.JournalBytes))
	e.printf("files       %s, %s\n", count(found.Files, "record"), byteCount(found.FileBytes))
	if found.Unfinished > 0 {
		e.printf("unfinished  %s: being written, or left by a process that was killed; the journal has what they were to hold\n", count(found.Unfinished, "file"))
	}
	for _, p := range found.Problems {
		e.printf("%-11s %s: %s\n", p.Kind, plain(p.File), plainLines(p.Detail))
	}
	if len(found.Problems) == 0 {
		e.printf("ok          every record can be read\n")
		return
	}
	e.printf("\n%s. What to do:\n", count(len(found.Problems), "problem"))
	told := map[ops.Kind]bool{}
	for _, p := range found.Problems {
		if !told[p.Kind] {
			told[p.Kind] = true
			e.printf("%-11s %s\n", p.Kind, p.Kind.Remedy())
		}
	}
}

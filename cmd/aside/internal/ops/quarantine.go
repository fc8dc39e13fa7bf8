package ops

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/redaside/aside/fallback"
)

// quarantine tells of what was put aside.
func (r *reader) quarantine() {
	for _, e := range r.readDir(quarantineDir) {
		name := path.Join(quarantineDir, e.Name())
		if strings.HasSuffix(name, reasonSuffix) {
			continue
		}
		reason, err := r.reason(strings.TrimSuffix(name, path.Ext(name)) + reasonSuffix)
		if err != nil {
			reason, err = r.reason(name + reasonSuffix)
		}
		if err != nil {
			reason = "nothing says why"
		}
		if o, ok := r.rejected(name); ok {
			r.problem(Rejected, name, "%s; %s", reason, o)
			continue
		}
		r.problem(Quarantined, name, "%s", reason)
	}
}

// rejected says what operations a file in quarantine has, if it has some and can be read. Its name may
// be another one than that of its key's record.
func (r *reader) rejected(name string) (string, bool) {
	content, err := r.content(name)
	if err != nil {
		return "", false
	}
	record, err := fallback.DecodeFile(path.Base(name), content)
	if err != nil && !errors.Is(err, fallback.ErrFileOtherKey) {
		return "", false
	}
	found := Record{Record: record}
	o, ok := found.Operations()
	return fmt.Sprintf("operations: %d (%s), the first made %s", o.Count, strings.Join(o.Commands, " "), o.Since.Format(time.RFC3339)), ok
}

// reason reads the beginning of a file that says why another is in quarantine: the two lines that
// say where it was and why.
func (r *reader) reason(name string) (string, error) {
	file, err := r.fsys.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // was only read from
	content, err := io.ReadAll(io.LimitReader(file, 1<<10))
	lines := strings.SplitN(strings.TrimSpace(string(content)), "\n", 3)
	return strings.Join(lines[:min(2, len(lines))], "; "), err
}

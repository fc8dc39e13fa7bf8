package asidesql

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redaside/aside"
)

// What needs a database is tested in the module dbtest.

type noCache struct{}

func (noCache) Del(context.Context, ...string) error { return nil }

func TestOptionsThatAreWrongAreAllNamed(t *testing.T) {
	_, err := New(new(sql.DB), noCache{}, Options{
		Dialect: 9, Table: "a; DROP TABLE b", MaxKeyBytes: -1, Batch: 5000, Poll: -1, Lease: time.Millisecond, MaxRetry: time.Millisecond, Channel: "Up",
	})
	if err == nil {
		t.Fatal("they are accepted")
	}
	for _, part := range []string{
		"Options.Dialect is Dialect(9)", `Options.Table is "a; DROP TABLE b"`, "Options.MaxKeyBytes is -1", "Options.Batch is 5000",
		"Options.Poll is -1ns", "Options.Lease is 1ms", "Options.MaxRetry is 1ms", `Options.Channel is "Up"`,
	} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q is missing in: %v", part, err)
		}
	}
	_, err = New(new(sql.DB), noCache{}, Options{Dialect: SQLite, Listen: func(context.Context, string, func()) error { return nil }})
	if err == nil || !strings.Contains(err.Error(), "Channel and Listen are for PostgreSQL, and Dialect is SQLite") {
		t.Error(err)
	}
	for _, dialect := range []Dialect{PostgreSQL, SQLite, MySQL} {
		if _, err := New(new(sql.DB), noCache{}, Options{Dialect: dialect}); err != nil {
			t.Error(dialect, err)
		}
	}
	if _, err := New(nil, noCache{}, Options{Dialect: SQLite}); err == nil {
		t.Error("a nil database is accepted")
	}
	if _, err := New(new(sql.DB), nil, Options{Dialect: SQLite}); err == nil {
		t.Error("a nil client is accepted")
	}
}

func TestSchemaHasAllColumns(t *testing.T) {
	columns, _, _ := strings.Cut(strings.TrimPrefix(check("t"), "SELECT "), " FROM")
	for _, dialect := range []Dialect{PostgreSQL, SQLite, MySQL} {
		for column := range strings.SplitSeq(columns, ", ") {
			if !strings.Contains(Schema(dialect), "\n    "+column+" ") {
				t.Errorf("%v has no %s", dialect, column)
			}
		}
	}
	if Schema(0) != "" || Schema(9) != "" {
		t.Error("a dialect that does not exist has a schema")
	}
}

func TestDelOfNothingAndOfNoTransaction(t *testing.T) {
	box, err := New(new(sql.DB), noCache{}, Options{Dialect: SQLite, MaxKeyBytes: 10})
	if err != nil {
		t.Fatal(err)
	}
	tx := new(statements)
	if err := box.Del(t.Context(), tx); err != nil || len(tx.ran) != 0 {
		t.Error(err, tx.ran)
	}
	if err := box.Del(t.Context(), nil, "a"); err == nil {
		t.Error("a nil transaction is accepted")
	}
	change := box.Within(tx)
	if err := change.Del(t.Context(), "a", "a key that is too long"); !errors.Is(err, aside.ErrTooLarge) || len(tx.ran) != 0 {
		t.Error(err, tx.ran)
	}
	if err := change.Committed(t.Context()); err != nil { // there is nothing to do
		t.Error(err)
	}
	if err := box.Transact(t.Context(), nil, nil); err == nil {
		t.Error("a nil function is accepted")
	}
}

// statements is an Execer that only notes what it was to run.
type statements struct{ ran []string }

func (s *statements) ExecContext(_ context.Context, query string, _ ...any) (sql.Result, error) {
	s.ran = append(s.ran, query)
	return nil, nil
}

func TestOnlyBoxDelNotifies(t *testing.T) {
	box, err := New(new(sql.DB), noCache{}, Options{Dialect: PostgreSQL, Channel: "gone"})
	if err != nil {
		t.Fatal(err)
	}
	tx := new(statements)
	if err := errors.Join(box.Del(t.Context(), tx, "a"), box.Within(tx).Del(t.Context(), "a")); err != nil {
		t.Fatal(err)
	}
	if len(tx.ran) != 2 || !strings.Contains(tx.ran[0], "pg_notify('gone', '')") || strings.Contains(tx.ran[1], "notify") {
		t.Error(tx.ran)
	}
}

func TestPaddedIsAPowerOfTwo(t *testing.T) {
	for n, want := range map[int]int{1: 1, 2: 2, 3: 4, 4: 4, 5: 8, 100: 128} {
		ids := make([]string, n)
		for i := range ids {
			ids[i] = newID()
		}
		args := padded(ids)
		if len(args) != want {
			t.Errorf("%d: %d", n, len(args))
		}
		for _, id := range ids {
			if !slices.Contains(args, any(id)) {
				t.Errorf("%d: %s is missing", n, id)
			}
		}
		slices.Sort(ids)
		if len(slices.Compact(ids)) != n || len(ids[0]) != 32 {
			t.Errorf("ids are not distinct, or not of 32 digits: %v", ids)
		}
	}
}

func TestPausesGrowUpToMaxRetry(t *testing.T) {
	box, err := New(new(sql.DB), noCache{}, Options{Dialect: SQLite, MaxRetry: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	for before, want := range map[int]time.Duration{-1: firstRetry, 0: firstRetry, 1: 2 * firstRetry, 3: 8 * firstRetry, 4: 3 * time.Second, 1 << 30: 3 * time.Second} {
		if got := box.pause(before); got != want {
			t.Errorf("after %d: %v", before, got)
		}
	}
}

func TestARedisThatRefusesIsNotAway(t *testing.T) {
	for _, err := range []error{aside.ErrNotDurable, aside.ErrUnknownOutcome, aside.ErrClosed, context.DeadlineExceeded} {
		if !isAway(err) {
			t.Error(err)
		}
	}
	if isAway(aside.ErrTooLarge) || isAway(errors.New("NOPERM")) {
		t.Error("a refusal counts as an outage")
	}
}

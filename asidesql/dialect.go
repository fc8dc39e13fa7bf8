package asidesql

import (
	"embed"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Dialect is the SQL that a database speaks.
type Dialect uint8

// The dialects.
const (
	PostgreSQL Dialect = iota + 1 // PostgreSQL 9.5 or later, through any driver with $1 placeholders
	SQLite                        // SQLite 3.35 or later
	MySQL                         // MariaDB 10.6 or MySQL 8.0 or later, with InnoDB
)

func (d Dialect) String() string {
	switch d {
	case PostgreSQL:
		return "PostgreSQL"
	case SQLite:
		return "SQLite"
	case MySQL:
		return "MySQL"
	default:
		return fmt.Sprintf("Dialect(%d)", uint8(d))
	}
}

//go:embed schema/*.sql
var schemas embed.FS

// Schema returns the statements that create the outbox table, unless it exists, for a migration
// tool or for DB.ExecContext. The table is called aside_outbox; replace the name if Options.Table
// is another one. Of a Dialect that does not exist it returns "".
func Schema(d Dialect) string {
	text, err := schemas.ReadFile("schema/" + strings.ToLower(d.name()) + ".sql")
	if err != nil {
		return "" // no such dialect
	}
	return string(text)
}

func (d Dialect) name() string {
	if d == PostgreSQL {
		return "postgres"
	}
	return d.String()
}

var (
	tableName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)?$`)
	channelName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`) // the same with and without quotes
)

// parked is the due_at of a row that no relay takes.
const parked = int64(1) << 62

// now is the database's clock in milliseconds since 1970, the same for the whole of a statement.
func (d Dialect) now() string {
	switch d {
	case PostgreSQL:
		return "CAST(extract(epoch FROM statement_timestamp()) * 1000 AS bigint)"
	case SQLite:
		return "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
	default: // not UNIX_TIMESTAMP(NOW()), which repeats an hour when summer time ends
		return "(TIMESTAMPDIFF(MICROSECOND, '1970-01-01 00:00:00', UTC_TIMESTAMP(3)) DIV 1000)"
	}
}

func (d Dialect) in(delay time.Duration) string {
	return d.now() + " + " + strconv.FormatInt(delay.Milliseconds(), 10)
}

// placeholders are those of n arguments, of which the first is the number first.
func (d Dialect) placeholders(first, n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		if d == PostgreSQL {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(first + i))
		} else {
			b.WriteByte('?')
		}
	}
	return b.String()
}

// insert writes n rows, of which each has two arguments: id and cache_key. With a channel it
// notifies that, in the same statement; PostgreSQL delivers it with the commit.
func (d Dialect) insert(table string, n int, delay time.Duration, channel string) string {
	var b strings.Builder
	b.WriteString("INSERT INTO " + table + " (id, cache_key, created_at, due_at) VALUES ")
	for i := range n {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("(" + d.placeholders(1+2*i, 2) + ", " + d.now() + ", " + d.in(delay) + ")")
	}
	if channel == "" {
		return b.String()
	}
	return "WITH written AS (" + b.String() + ") SELECT pg_notify('" + channel + "', '')"
}

// due is a query that finds a due row, for a database in which taking none would cost a lock.
func (d Dialect) due(table string) string {
	return "SELECT 1 FROM " + table + " WHERE due_at <= " + d.now() + " LIMIT 1"
}

// take is a query that takes up to n due rows and returns them. For MySQL, which cannot return what
// it updates, it only locks them, and lease follows in the same transaction.
//
// The rows of PostgreSQL are chosen in a WITH, because a subquery of IN may be run more than once,
// and then lock more than n.
func (d Dialect) take(table string, n int, lease time.Duration) string {
	limit := strconv.Itoa(n)
	choice := " FROM " + table + " WHERE due_at <= " + d.now() + " ORDER BY due_at LIMIT " + limit
	set := " SET due_at = " + d.in(lease) + ", attempts = attempts + 1"
	switch d {
	case PostgreSQL:
		return "WITH taken AS (SELECT id" + choice + " FOR UPDATE SKIP LOCKED)" +
			" UPDATE " + table + " AS o" + set + " FROM taken WHERE o.id = taken.id RETURNING o.id, o.cache_key, o.attempts"
	case SQLite:
		return "UPDATE " + table + set + " WHERE id IN (SELECT id" + choice + ") RETURNING id, cache_key, attempts"
	default:
		return "SELECT id, cache_key, attempts + 1" + choice + " FOR UPDATE SKIP LOCKED"
	}
}

// lease takes n rows, by their ids.
func (d Dialect) lease(table string, n int, lease time.Duration) string {
	return "UPDATE " + table + " SET due_at = " + d.in(lease) + ", attempts = attempts + 1 WHERE id IN (" + d.placeholders(1, n) + ")"
}

// remove removes n rows, by their ids.
func (d Dialect) remove(table string, n int) string {
	return "DELETE FROM " + table + " WHERE id IN (" + d.placeholders(1, n) + ")"
}

// retry makes n rows due after delay, or never. Its arguments are the error and the ids.
func (d Dialect) retry(table string, n int, delay time.Duration) string {
	due := d.in(delay)
	if delay == never {
		due = strconv.FormatInt(parked, 10)
	}
	return "UPDATE " + table + " SET due_at = " + due + ", last_error = " + d.placeholders(1, 1) + " WHERE id IN (" + d.placeholders(2, n) + ")"
}

// backlog is a query of one row: waiting, parked, and the age of the oldest that waits, in
// milliseconds.
func (d Dialect) backlog(table string) string {
	isParked := "due_at >= " + strconv.FormatInt(parked, 10)
	return "SELECT COALESCE(SUM(CASE WHEN " + isParked + " THEN 0 ELSE 1 END), 0)," +
		" COALESCE(SUM(CASE WHEN " + isParked + " THEN 1 ELSE 0 END), 0)," +
		" COALESCE(" + d.now() + " - MIN(CASE WHEN " + isParked + " THEN NULL ELSE created_at END), 0) FROM " + table
}

// check is a query that fails unless the table has all columns.
func check(table string) string {
	return "SELECT id, cache_key, created_at, due_at, attempts, last_error FROM " + table + " WHERE 1 = 0"
}

// padded repeats the last of ids until there is a power of two of them: so few different statements
// are prepared, however many rows there are at a time.
func padded(ids []string) []any {
	n := 1
	for n < len(ids) {
		n *= 2
	}
	args := make([]any, n)
	for i := range args {
		args[i] = ids[min(i, len(ids)-1)]
	}
	return args
}

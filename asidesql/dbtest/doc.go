// Package dbtest tries asidesql with real databases: SQLite, PostgreSQL through pgx, and MariaDB.
// It is a module of its own, so that who uses asidesql does not get their drivers.
package dbtest

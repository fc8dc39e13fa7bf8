-- The outbox of asidesql: a row for each key that is to be deleted from the cache.
CREATE TABLE IF NOT EXISTS aside_outbox (
    id         TEXT    PRIMARY KEY,        -- made by the writer: its clock, and random
    cache_key  BLOB    NOT NULL,           -- CAST(cache_key AS TEXT) shows it
    created_at INTEGER NOT NULL,           -- milliseconds since 1970, by the database's clock
    due_at     INTEGER NOT NULL,           -- not before this; a relay that takes a row moves it ahead
    attempts   INTEGER NOT NULL DEFAULT 0, -- how often a relay has taken the row
    last_error TEXT                        -- why the last attempt failed
);
CREATE INDEX IF NOT EXISTS aside_outbox_due_at ON aside_outbox (due_at);

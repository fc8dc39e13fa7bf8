-- The outbox of asidesql: a row for each key that is to be deleted from the cache.
CREATE TABLE IF NOT EXISTS aside_outbox (
    id         text   PRIMARY KEY,        -- made by the writer: its clock, and random
    cache_key  bytea  NOT NULL,           -- convert_from(cache_key, 'UTF8') shows it
    created_at bigint NOT NULL,           -- milliseconds since 1970, by the database's clock
    due_at     bigint NOT NULL,           -- not before this; a relay that takes a row moves it ahead
    attempts   int    NOT NULL DEFAULT 0, -- how often a relay has taken the row
    last_error text                       -- why the last attempt failed
);
CREATE INDEX IF NOT EXISTS aside_outbox_due_at ON aside_outbox (due_at);

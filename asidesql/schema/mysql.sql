-- The outbox of asidesql: a row for each key that is to be deleted from the cache.
CREATE TABLE IF NOT EXISTS aside_outbox (
    id         CHAR(32) CHARACTER SET ascii COLLATE ascii_bin PRIMARY KEY, -- made by the writer: its clock, and random
    cache_key  BLOB   NOT NULL,                -- CONVERT(cache_key USING utf8mb4) shows it
    created_at BIGINT NOT NULL,                -- milliseconds since 1970, by the database's clock
    due_at     BIGINT NOT NULL,                -- not before this; a relay that takes a row moves it ahead
    attempts   INT    NOT NULL DEFAULT 0,      -- how often a relay has taken the row
    last_error TEXT CHARACTER SET utf8mb4,     -- why the last attempt failed
    INDEX aside_outbox_due_at (due_at)
) ENGINE = InnoDB;

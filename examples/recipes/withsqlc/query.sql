-- name: Price :one
SELECT id, cents FROM prices WHERE id = ?;

-- name: SetPrice :exec
INSERT INTO prices (id, cents) VALUES (?, ?)
ON CONFLICT (id) DO UPDATE SET cents = excluded.cents;

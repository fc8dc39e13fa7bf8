-- Stands in for a call that the server would not read because an argument is too long for it.
--
-- KEYS:       k
-- ARGV:       the error
-- Answer:     that error
-- Second run: changes nothing

return redis.error_reply(ARGV[1])

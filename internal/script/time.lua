-- Tells the server's time as the scripts have it, which decides about windows and stamps: a proxy
-- in between may answer TIME itself. The probe asks for it, and shows at the same time that scripts
-- may be run.
--
-- KEYS:       none
-- ARGV:       the prefix of probe keys, so that whoever watches the server knows a probe by it
-- Answer:     seconds, microseconds
-- Second run: changes nothing

return redis.call('TIME')

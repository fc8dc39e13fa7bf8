-- Tells the server's time as the scripts have it, which decides about windows and stamps: a proxy
-- in between may answer TIME itself. The probe asks for it, and shows at the same time that scripts
-- may be run.
--
-- KEYS:       none
-- ARGV:       the prefix of probe keys, which marks the call as a probe's
-- Answer:     seconds, microseconds
-- Second run: changes nothing

return redis.call('TIME')

-- Makes a probe key on a server that is full: a script that has begun with a write may go on to
--                                             write.
--
-- KEYS:       k
-- ARGV:       ttl in ms
-- Answer:     OK
-- Second run: makes the same key again

redis.call('PEXPIRE', KEYS[1], ARGV[1])
return redis.call('SET', KEYS[1], '', 'PX', ARGV[1])

-- Record a process. Returns: number of processes that use this server, and 1 if it did not know this one.
-- KEYS: processes (sorted set by the time of the last heartbeat). ARGV: id of the process, seconds after which a
-- process no longer counts.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local is_new = redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], 3600000)
return {redis.call('ZCARD', KEYS[1]), is_new}

-- Record a process. Returns: number of processes that use this server; 1 if it did not know this one; id of the data;
-- time of this server.
-- KEYS: processes (sorted set by the time of the last heartbeat), id of the data. ARGV: id of the process, seconds after
-- which a process no longer counts, id of the data if they have none.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local is_new = redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], 3600000)
redis.call('SET', KEYS[2], ARGV[3], 'NX')
return {redis.call('ZCARD', KEYS[1]), is_new, redis.call('GET', KEYS[2]), string.format('%.6f', now)}

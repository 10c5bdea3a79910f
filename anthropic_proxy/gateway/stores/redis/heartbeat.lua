-- Record a process whose amounts are all stored, and count the processes that use this server.
-- KEYS: processes (sorted set by the time of the last heartbeat), generation. ARGV: id of the process ("": record none),
-- new generation, seconds after which a process no longer counts, a time ("": now), generation that the process knows.
-- Returns: number of processes, number of those with a heartbeat since that time, generation of the data, present time.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local text = string.format('%.6f', now)
redis.call('SET', KEYS[2], ARGV[2], 'NX')
local generation = redis.call('GET', KEYS[2])
if ARGV[1] ~= '' and (ARGV[5] == '' or ARGV[5] == generation) then
  redis.call('ZADD', KEYS[1], text, ARGV[1])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - tonumber(ARGV[3])))
redis.call('PEXPIRE', KEYS[1], 3600000)
local recent = redis.call('ZCOUNT', KEYS[1], ARGV[4] == '' and text or ARGV[4], '+inf')
return {redis.call('ZCARD', KEYS[1]), recent, generation, text}

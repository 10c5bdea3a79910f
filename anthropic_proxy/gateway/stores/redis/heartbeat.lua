-- Record a process. Returns: number of processes that use this server; id of the data; time of this server; state of the data, another one after each start of the server and each loss.
-- KEYS: processes (sorted set by the time of the last heartbeat), id of the data, their state. ARGV: id of the process,
-- seconds after which a process no longer counts, id of the data if they have none, random text for a new state.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
redis.call('ZADD', KEYS[1], string.format('%.6f', now), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', string.format('%.6f', now - tonumber(ARGV[2])))
redis.call('PEXPIRE', KEYS[1], 3600000)
redis.call('SET', KEYS[2], ARGV[3], 'NX')
local _, found = pcall(redis.call, 'INFO', 'server')  -- this user may lack the right
local start = type(found) == 'string' and string.match(found, 'run_id:(%x+)') or ''
local state = redis.call('GET', KEYS[3])
if not state or (start ~= '' and string.sub(state, 1, #start) ~= start) then
  state = start .. ':' .. ARGV[4]
  redis.call('SET', KEYS[3], state)
end
return {redis.call('ZCARD', KEYS[1]), redis.call('GET', KEYS[2]), string.format('%.6f', now), state}

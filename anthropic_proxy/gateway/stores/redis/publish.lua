-- Store an observation until it expires, and send it to all instances.
-- KEYS: observations (hash). ARGV: channel, name, observation, seconds (0: revoked), process that sends it.
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
if tonumber(ARGV[4]) > 0 then
  redis.call('HSET', KEYS[1], ARGV[2], string.format('%.3f', now + tonumber(ARGV[4])) .. ' ' .. ARGV[3])
  redis.call('PEXPIRE', KEYS[1], math.max(math.ceil(tonumber(ARGV[4]) * 1000), redis.call('PTTL', KEYS[1])))
else
  redis.call('HDEL', KEYS[1], ARGV[2])
end
return redis.call('PUBLISH', ARGV[1], ARGV[5] .. ' ' .. ARGV[3])

-- Add amounts that a process has counted itself, after an interruption or a loss of data.
-- KEYS: a counter, its holds, and a marker, so that a repeated call has no effect.
-- ARGV: time ("": of this server), kind, seconds, settled amount, number of holds; then id, amount,
-- lease seconds of each hold; then age in slots and amount of each slot.
if not redis.call('SET', KEYS[3], '', 'NX', 'PX', 3600000) then
  return 0
end
local kind, seconds, key = ARGV[2], tonumber(ARGV[3]), KEYS[1]
if kind ~= 'rate' then
  redis.call('HINCRBY', key, 'used', ARGV[4])
  local milliseconds = kind == 'amount' and math.ceil(seconds * 1000) or 1000
  local count = tonumber(ARGV[5])
  for index = 1, count do
    local at = 6 + (index - 1) * 3
    local lease = tonumber(ARGV[at + 2])
    if redis.call('ZADD', KEYS[2], string.format('%.6f', now + lease), ARGV[at + 1] .. ':' .. ARGV[at]) == 1 then
      redis.call('HINCRBY', key, 'held', ARGV[at + 1])
    end
    local lifetime = math.ceil(lease * 1000) + 1000
    redis.call('PEXPIRE', KEYS[2], math.max(lifetime, redis.call('PTTL', KEYS[2])))
    if kind == 'concurrency' then milliseconds = math.max(milliseconds, lifetime) end
  end
  if kind == 'concurrency' then
    redis.call('PEXPIRE', key, math.max(milliseconds, redis.call('PTTL', key)))
  elseif redis.call('HSETNX', key, 'expires', string.format('%.6f', now + seconds)) == 1 then
    redis.call('PEXPIRE', key, milliseconds)
  end
  return 0
end
local width = seconds / SLOT_COUNT
local present = math.floor(now / width)
local found = redis.call('HMGET', key, 'width', 'sum', 'first', 'last')
if not found[1] or tonumber(found[1]) ~= width or tonumber(found[4]) < present - SLOT_COUNT then
  redis.call('DEL', key)
  found = {true, 0, present, present}
  redis.call('HSET', key, 'width', string.format('%.17g', width))
end
local sum, first, last = tonumber(found[2]), tonumber(found[3]), tonumber(found[4])
for at = 6, #ARGV - 1, 2 do
  local slot = present - tonumber(ARGV[at])
  if slot >= present - SLOT_COUNT then
    redis.call('HINCRBY', key, 's' .. string.format('%.0f', slot), ARGV[at + 1])
    sum, first, last = sum + tonumber(ARGV[at + 1]), math.min(first, slot), math.max(last, slot)
  end
end
redis.call('HSET', key, 'sum', string.format('%.0f', sum), 'first', first, 'last', last)
redis.call('PEXPIRE', key, math.ceil((seconds + width) * 1000))
return 0

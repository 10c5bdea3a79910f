-- Extend the leases of running reservations, and restore those that have ended.
-- KEYS: for each hold the marker of its settlement, its counter and its holds.
-- ARGV: time ("": of this server); then id, kind, amount, counter seconds, lease seconds of each hold.
local function renew_hold(index)
  local marker, key, holds = KEYS[index * 3 - 2], KEYS[index * 3 - 1], KEYS[index * 3]
  local at = 2 + (index - 1) * 5
  local id, kind, amount = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  local seconds, lease = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4])
  if tonumber(redis.call('GET', marker) or 0) <= now then
    local expires = tonumber(redis.call('HGET', key, 'expires') or 0)
    if kind == 'amount' and expires > 0 and expires <= now then
      redis.call('DEL', key, holds)
      expires = 0
    end
    local ends, member = string.format('%.6f', now + lease), string.format('%.0f:%s', amount, id)
    if redis.call('ZADD', holds, ends, member) == 1 then
      redis.call('HINCRBY', key, 'held', string.format('%.0f', amount))
    end
    local milliseconds = math.ceil(lease * 1000) + 1000
    redis.call('PEXPIRE', holds, math.max(milliseconds, redis.call('PTTL', holds)))
    if kind == 'concurrency' then
      redis.call('PEXPIRE', key, math.max(milliseconds, redis.call('PTTL', key)))
    elseif expires == 0 then
      redis.call('HSET', key, 'expires', string.format('%.6f', now + seconds))
      redis.call('PEXPIRE', key, math.ceil(seconds * 1000))
    end
  end
end

for index = 1, #KEYS / 3 do
  try(renew_hold, index)
end
return reply(0)

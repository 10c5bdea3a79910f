-- Replace the reserved amounts with the actual ones, once.
-- KEYS: marker of the settlement; then for each limit its counter and its holds.
-- ARGV: time ("": of this server), id, seconds for which the marker is kept, seconds for which the amounts have waited;
-- then kind, reserved amount, actual amount, seconds, slot of each limit.
local id, settled_at = ARGV[2], now - tonumber(ARGV[4])
local settled_until = tonumber(redis.call('GET', KEYS[1]) or 0)
if settled_until > now then
  return 0
end
redis.call('SET', KEYS[1], string.format('%.6f', now + tonumber(ARGV[3])), 'PX', math.ceil(tonumber(ARGV[3]) * 1000))

local function settle_rate(key, reserved, actual, seconds, slot)
  local width = seconds / SLOT_COUNT
  local found = redis.call('HMGET', key, 'width', 'sum', 'first', 'last')
  local present = math.floor(now / width)
  if not found[1] or tonumber(found[1]) ~= width or tonumber(found[4]) < present - SLOT_COUNT then
    if actual <= reserved then return end
    redis.call('DEL', key)
    redis.call('HSET', key, 'width', string.format('%.17g', width))
    found = {true, 0, present, present}
  end
  if actual > reserved then
    slot = present
    redis.call('HSET', key, 'first', math.min(tonumber(found[3]), present), 'last', present)
  elseif slot < tonumber(found[3]) or slot < present - SLOT_COUNT then
    return
  end
  local name = 's' .. string.format('%.0f', slot)
  local before = tonumber(redis.call('HGET', key, name) or 0)
  local after = math.max(before + actual - reserved, 0)
  redis.call('HSET', key, name, text(after), 'sum', text(tonumber(found[2]) + after - before))
  redis.call('PEXPIRE', key, math.ceil((seconds + width) * 1000))
end

local function settle_limit(index)
  local key, holds, at = KEYS[index * 2], KEYS[index * 2 + 1], 5 + (index - 1) * 5
  local kind, reserved, actual, seconds = ARGV[at], tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  if kind == 'rate' then
    settle_rate(key, reserved, actual, seconds, tonumber(ARGV[at + 4]))
  else
    local found = redis.call('HMGET', key, 'expires', 'raised')
    local expires, raised = tonumber(found[1] or 0), tonumber(found[2] or 0)
    if kind == 'amount' and expires > 0 and expires <= now then
      redis.call('DEL', key, holds)
      expires, raised = 0, 0
    end
    if redis.call('ZREM', holds, text(reserved) .. ':' .. id) == 1 then
      redis.call('HINCRBY', key, 'held', text(-reserved))
    end
    if kind == 'amount' then
      if raised <= settled_at or raised > now then
        redis.call('HINCRBY', key, 'used', text(actual))
      end
      if expires == 0 then
        redis.call('HSET', key, 'expires', string.format('%.6f', now + seconds))
        redis.call('PEXPIRE', key, math.ceil(seconds * 1000))
      end
    end
  end
end

for index = 1, (#KEYS - 1) / 2 do
  try(settle_limit, index)
end
return reply(1)

-- Reserve the amounts of all limits, or none. The Python code of the other store: gateway/stores/memory.py.
-- KEYS: marker of the settlement, result of this call, state of the data; then for each limit its counter (hash) and its holds (sorted
-- set: "amount:id" by the end of the lease). ARGV: time ("": of this server), id, lease seconds, milliseconds of the
-- result, expected state of the data ("": any); then kind, amount, maximum, seconds, lowest settled amount of each limit.
-- Returns: index of the refused limit from 0 or -1, retry-after; then remaining, reset, slot, settled amount of each
-- limit, all as texts. A repeated call reserves nothing more.
-- Nothing is returned if the reservation is already settled: the process no longer waited for it. `lost` alone is
-- returned, and nothing is reserved, if the state of the data is another one.
local id, lease = ARGV[2], tonumber(ARGV[3])
if ARGV[5] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[5] then
  return {'lost'}
end
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {}
end
local known = redis.call('GET', KEYS[2])
if known then
  return cjson.decode(known)
end
local states, refused, retry_after = {}, -1, -1

local function read_rate(state, seconds)
  local width = seconds / SLOT_COUNT
  local found = redis.call('HMGET', state.key, 'width', 'sum', 'first', 'last')
  state.width, state.slot, state.used, state.held = width, math.floor(now / width), 0, 0
  if not found[1] or tonumber(found[1]) ~= width then
    state.first, state.last, state.is_new = state.slot, state.slot, true
    return
  end
  state.used, state.first, state.last = tonumber(found[2]), tonumber(found[3]), tonumber(found[4])
  local kept = state.slot - SLOT_COUNT
  if state.last < kept then
    state.used, state.first, state.last, state.is_new = 0, state.slot, state.slot, true
    return
  end
  while state.first < kept do
    local ended = redis.call('HGET', state.key, 's' .. string.format('%.0f', state.first))
    if ended then
      state.used = state.used - tonumber(ended)
      redis.call('HDEL', state.key, 's' .. string.format('%.0f', state.first))
    end
    state.first = state.first + 1
  end
  redis.call('HSET', state.key, 'sum', text(state.used), 'first', state.first)
end

local function begin_window(state)
  state.expires = now + state.seconds
  redis.call('HSET', state.key, 'expires', string.format('%.6f', state.expires))
  redis.call('PEXPIRE', state.key, math.ceil(state.seconds * 1000))
end

local function raise_used(state)
  state.used = state.at_least
  redis.call('HSET', state.key, 'used', text(state.used), 'raised', string.format('%.6f', now))
  if state.expires == 0 then begin_window(state) end
end

local function read_held(state)
  local found = redis.call('HMGET', state.key, 'used', 'held', 'expires')
  state.used, state.held, state.expires = tonumber(found[1] or 0), tonumber(found[2] or 0), tonumber(found[3] or 0)
  if state.kind == 'amount' and state.expires > 0 and state.expires <= now then
    redis.call('DEL', state.key, state.holds)
    state.used, state.held, state.expires = 0, 0, 0
  end
  local ended = redis.call('ZRANGEBYSCORE', state.holds, '-inf', string.format('%.6f', now))
  for _, member in ipairs(ended) do
    state.held = state.held - tonumber(string.match(member, '^(%d+):'))
    redis.call('ZREM', state.holds, member)
  end
  if state.held ~= 0 and (state.held < 0 or redis.call('ZCARD', state.holds) == 0) then
    state.held = 0
  end
  if #ended > 0 then
    redis.call('HSET', state.key, 'held', text(state.held))
  end
end

local function wait_of(state, excess)
  if state.kind == 'rate' then
    for slot = state.first, state.last do
      excess = excess - tonumber(redis.call('HGET', state.key, 's' .. string.format('%.0f', slot)) or 0)
      if excess <= 0 then
        return (slot + 1 + SLOT_COUNT) * state.width - now
      end
    end
    return state.seconds
  end
  local is_reserved = state.used < state.maximum and state.used + state.held >= state.maximum
  if state.kind == 'concurrency' or state.held >= excess or is_reserved then
    return 1
  end
  if state.expires > 0 then
    return state.expires - now
  end
  return state.seconds
end

for index = 1, (#KEYS - 3) / 2 do
  local at = 6 + (index - 1) * 5
  local state = {key = KEYS[index * 2 + 2], holds = KEYS[index * 2 + 3], kind = ARGV[at], amount = tonumber(ARGV[at + 1]),
    maximum = tonumber(ARGV[at + 2]), seconds = tonumber(ARGV[at + 3]), at_least = tonumber(ARGV[at + 4])}
  if state.kind == 'rate' then read_rate(state, state.seconds) else read_held(state) end
  if state.at_least > state.used and state.kind == 'amount' then raise_used(state) end
  local excess = state.used + state.held + state.amount - state.maximum
  if excess > 0 and state.amount > 0 then
    local wait = wait_of(state, excess)
    if wait > retry_after then
      refused, retry_after = index - 1, wait
    end
  end
  states[index] = state
end

local function write_rate(state)
  if state.is_new then
    redis.call('DEL', state.key)
    redis.call('HSET', state.key, 'width', string.format('%.17g', state.width))
  end
  state.used, state.last = state.used + state.amount, state.slot
  state.first = math.min(state.first, state.slot)  -- the clock may have been set back
  redis.call('HINCRBY', state.key, 's' .. string.format('%.0f', state.slot), text(state.amount))
  redis.call('HSET', state.key, 'sum', text(state.used), 'first', state.first, 'last', state.slot)
  redis.call('PEXPIRE', state.key, math.ceil((state.seconds + state.width) * 1000))
end

local function write_held(state)
  local ends, member = string.format('%.6f', now + lease), text(state.amount) .. ':' .. id
  if redis.call('ZADD', state.holds, ends, member) == 1 then  -- not repeated after the time of the result
    state.held = state.held + state.amount
    redis.call('HSET', state.key, 'held', text(state.held))
  end
  local milliseconds = math.ceil(lease * 1000) + 1000
  redis.call('PEXPIRE', state.holds, math.max(milliseconds, redis.call('PTTL', state.holds)))
  if state.kind == 'concurrency' then
    redis.call('PEXPIRE', state.key, math.max(milliseconds, redis.call('PTTL', state.key)))
  elseif state.expires == 0 then
    begin_window(state)
  end
end

local result = {text(refused), string.format('%.6f', math.max(retry_after, 0))}
for _, state in ipairs(states) do
  if refused < 0 and state.amount > 0 then
    if state.kind == 'rate' then write_rate(state) else write_held(state) end
  end
  local reset = 0
  if state.kind == 'rate' and state.used > 0 then
    local last = state.last
    while last > state.first and tonumber(redis.call('HGET', state.key, 's' .. string.format('%.0f', last)) or 0) == 0 do
      last = last - 1
    end
    reset = (last + 1 + SLOT_COUNT) * state.width - now
  elseif state.kind == 'amount' and state.expires > 0 then
    reset = state.expires - now
  end
  table.insert(result, text(state.maximum - state.used - state.held))
  table.insert(result, string.format('%.6f', reset))
  table.insert(result, text(state.slot or 0))
  table.insert(result, text(state.kind == 'amount' and state.used or 0))
end
if refused < 0 then
  redis.call('SET', KEYS[2], cjson.encode(result), 'PX', ARGV[4])
end
return result

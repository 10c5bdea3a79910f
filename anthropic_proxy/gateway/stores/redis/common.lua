-- Beginning of the scripts for limits. ARGV[1]: time in seconds; "": that of this server.
local SLOT_COUNT = 256
local now = tonumber(ARGV[1])
if not now then
  local time = redis.call('TIME')
  now = tonumber(time[1]) + tonumber(time[2]) / 1000000
end

local function text(amount)  -- without an exponent, which HINCRBY rejects
  return string.format('%.0f', amount)
end

local failure
local function try(step, index)  -- wrong data of one limit do not concern the other limits
  local is_done, problem = pcall(step, index)
  if not is_done then
    failure = failure or problem
  end
end

local function reply(value)  -- a table in Redis 7, a text in earlier versions
  if not failure then
    return value
  end
  return type(failure) == 'table' and failure or redis.error_reply(failure)
end


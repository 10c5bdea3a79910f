-- Add to a number, which expires after its first addition. KEYS: the value, the result of this call. ARGV: amount,
-- milliseconds, milliseconds of the result. A repeated call adds nothing.
local known = redis.call('GET', KEYS[2])
if known then
  return known
end
local sum = redis.call('INCRBYFLOAT', KEYS[1], ARGV[1])
if redis.call('PTTL', KEYS[1]) < 0 then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('SET', KEYS[2], sum, 'PX', ARGV[3])
return sum

-- Store a text unless there is one, and return the stored one. KEYS: the value. ARGV: text, milliseconds.
local known = redis.call('GET', KEYS[1])
if known then
  return known
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]

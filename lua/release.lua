-- Gives a lease back, if it is still the token's, and calls those who wait.
--
-- KEYS[1]  lease             {prefix}{user}:channel:lock  string: the holder's token; then a '+' once somebody waits
-- ARGV[1]  token             random
--
-- Reply    { 1, waiting}       OK: 1 if somebody waits for it, else 0
--          {-2, 0}             GONE: another token holds it, or none

-- @include holder

local lease = KEYS[1]
local token = ARGV[1]

local _, is_ours, is_awaited = holder(lease, token)
if not is_ours then
  return {-2, 0}
end
redis.call('UNLINK', lease)
if is_awaited then
  -- Who may not publish has released it nonetheless; those who wait look for themselves then.
  redis.pcall('PUBLISH', lease, '')
end
return {1, is_awaited and 1 or 0}

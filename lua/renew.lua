-- Renews a lease, if it is still the token's. It is never taken: in between, another may have had it.
--
-- KEYS[1]  lease             {prefix}{user}:channel:lock  string: the holder's token; then a '+' once somebody waits
-- ARGV[1]  token             random
-- ARGV[2]  lease_ms          milliseconds until it runs out
--
-- Reply    { 1, 0}             OK
--          {-2, 0}             GONE: another token holds it, or none

-- @include holder

local lease = KEYS[1]
local token = ARGV[1]
local lease_ms = ARGV[2]

local _, is_ours = holder(lease, token)
if not is_ours then
  return {-2, 0}
end
redis.call('PEXPIRE', lease, lease_ms)
return {1, 0}

-- Takes a lease, or renews it for the one who has it: sent twice, it does no harm. A refusal leaves a mark, so that the
-- holder knows that it has to call when it is done.
--
-- KEYS[1]  lease             {prefix}{user}:channel:lock  string: the holder's token; then a '+' once somebody waits
-- ARGV[1]  token             random
-- ARGV[2]  lease_ms          milliseconds until it runs out
--
-- Reply    { 1, 0}             OK: it is the token's
--          {-5, ms}            HELD: it is another's, and runs out in so many milliseconds

-- @include holder

local lease = KEYS[1]
local token = ARGV[1]
local lease_ms = ARGV[2]

local stored, is_ours, is_awaited = holder(lease, token)
if is_ours then
  redis.call('PEXPIRE', lease, lease_ms)
  return {1, 0}
elseif not stored then
  redis.call('SET', lease, token, 'PX', lease_ms)
  return {1, 0}
elseif not is_awaited then
  redis.call('SET', lease, stored .. '+', 'KEEPTTL')
end
return {-5, redis.call('PTTL', lease)}

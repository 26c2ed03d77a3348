-- Renews the rolling TTL of a session. One with its own expires_at keeps that.
--
-- KEYS[1]  session           {prefix}{user}:channel  hash
-- KEYS[2]  index             {prefix}{user}          sorted set
-- ARGV[1]  member            the channel, as the index has it
-- ARGV[2]  ttl_ms            rolling TTL in milliseconds; '' for none
--
-- Reply    { 1, 0}             OK
--          {-2, 0}             GONE

-- @include deadline
-- @include index

local session = KEYS[1]
local index = KEYS[2]
local member = ARGV[1]
local ttl_ms = ARGV[2]

local meta = redis.call('HMGET', session, '\255v', '\255e')
if not meta[1] and redis.call('EXISTS', session) == 0 then
  return {-2, 0}
end
local expires_at = meta[2]
if expires_at and not is_time(expires_at) then
  expires_at = false
end
local _, now_ms = clock()
local deadline, slack_ms = deadline_of(expires_at, ttl_ms, now_ms)

local score, is_entered = score_of(index, member, deadline, slack_ms)
if not is_entered then
  redis.call('ZADD', index, score, member)
  reindex(index, now_ms)
end
if not deadline then
  redis.call('PERSIST', session)
elseif not expires_at then
  redis.call('PEXPIREAT', session, deadline)
end
return {1, 0}

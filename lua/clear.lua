-- Removes some sessions of one user.
--
-- KEYS[1]    index             {prefix}{user}          sorted set
-- KEYS[2...] sessions          {prefix}{user}:channel  hashes, 500 at most
-- ARGV[1...] members           their channels, as the index has them
--
-- Reply      { 1, sessions}      OK: how many were there

-- @include deadline
-- @include index

local index = KEYS[1]

local _, now_ms = clock()
local were_there = redis.call('UNLINK', unpack(KEYS, 2))
redis.call('ZREM', index, unpack(ARGV))
reindex(index, now_ms)
return {1, were_there}

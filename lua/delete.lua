-- Removes one session.
--
-- KEYS[1]  session           {prefix}{user}:channel  hash
-- KEYS[2]  index             {prefix}{user}          sorted set
-- ARGV[1]  member            the channel, as the index has it
-- ARGV[2]  expected_version  '' for any; '0' for "must not exist"
--
-- Reply    { 1, 0}             OK: it was there
--          {-2, 0}             GONE: there was none
--          {-1, version}       CONFLICT: the version there is; 0 for none
--          {-4, field}         CORRUPT: there is no version to compare with

-- @include deadline
-- @include index

local session = KEYS[1]
local index = KEYS[2]
local member = ARGV[1]
local expected_version = ARGV[2]

if expected_version ~= '' then
  local stored = redis.call('HGET', session, '\255v')
  local version = tonumber(stored or 0)
  if not version or (not stored and redis.call('EXISTS', session) == 1) then
    return {-4, '\255v'}
  elseif tonumber(expected_version) ~= version then
    return {-1, version}
  end
end
local _, now_ms = clock()
return {remove(session, index, member, now_ms) == 1 and 1 or -2, 0}

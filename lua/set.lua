-- Replaces a session as a whole, or creates it.
--
-- KEYS[1]  session           {prefix}{user}:channel  hash
-- KEYS[2]  index             {prefix}{user}          sorted set
-- ARGV[1]  member            the channel, as the index has it
-- ARGV[2]  owner             digest of the session key
-- ARGV[3]  ttl_ms            rolling TTL in milliseconds; '' for none
-- ARGV[4]  expected_version  '' for any; '0' for "must not exist"
-- ARGV[5]  created_at        microseconds since 1970
-- ARGV[6]  expires_at        '' for none, else microseconds since 1970
-- ARGV[7]  size              bytes of all names and values
-- ARGV[8...] fields          name, value, name, value, ...
--
-- Reply    { 1, version}       OK
--          { 2, 0}             REMOVED: its expires_at has passed
--          {-1, version}       CONFLICT: the version there is; 0 for none
--          {-4, field}         CORRUPT: there is no version to compare with

-- @include deadline
-- @include index
-- @include all_or_nothing

local session = KEYS[1]
local index = KEYS[2]
local member = ARGV[1]
local owner = ARGV[2]
local ttl_ms = ARGV[3]
local expected_version = ARGV[4]
local created_at = ARGV[5]
local expires_at = ARGV[6]
local size = ARGV[7]

local meta = redis.call('HMGET', session, '\255v', '\255c', '\255b')
local version = tonumber(meta[1] or '')
local names = redis.call('HKEYS', session)
local exists = #names > 0
if expected_version ~= '' then
  if exists and not version then
    return {-4, '\255v'}
  elseif tonumber(expected_version) ~= (version or 0) then
    return {-1, version or 0}
  end
end

local micros, now_ms = clock()
local deadline, slack_ms, passed = deadline_of(expires_at ~= '' and expires_at, ttl_ms, now_ms)
if passed then
  remove(session, index, member, now_ms)
  return {2, 0}
end

local new = string.format('%.0f', math.max((version or 0) + 1, micros))
local born = version and tonumber(meta[3] or meta[2] or '') and (meta[3] or meta[2]) or new
local fields = {'\255v', new, '\255s', size, '\255c', created_at, '\255o', owner}
if born ~= created_at then
  fields[9], fields[10] = '\255b', born
end
if expires_at ~= '' then
  fields[#fields + 1], fields[#fields + 2] = '\255e', expires_at
end
for i = 8, #ARGV do
  fields[#fields + 1] = ARGV[i]
end

local dropped = {}
if exists then
  local kept = {}
  for i = 1, #fields, 2 do
    kept[fields[i]] = true
  end
  for i = 1, #names do
    if not kept[names[i]] then
      dropped[#dropped + 1] = names[i]
    end
  end
end
write(session, index, member, exists, deadline, slack_ms, now_ms, fields, dropped)
return {1, tonumber(new)}

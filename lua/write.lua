-- Merges top-level keys into a session; creates it if it is not there and may be.
--
-- KEYS[1]  session           {prefix}{user}:channel  hash
-- KEYS[2]  index             {prefix}{user}          sorted set
-- ARGV[1]  member            the channel, as the index has it
-- ARGV[2]  owner             digest of the session key
-- ARGV[3]  ttl_ms            rolling TTL in milliseconds; '' for none
-- ARGV[4]  expected_version  '' for any; '0' for "must not exist"
-- ARGV[5]  create            '1' or '0'
-- ARGV[6]  since_version     '' or: the session must have existed without a break since this version
-- ARGV[7]  expires_at        '' to keep, '-' to drop, else microseconds since 1970
-- ARGV[8]  max_bytes         of all names and values
-- ARGV[9]  modes             any of these letters:
--                              r  replace: the names that follow are kept, all others that do not change go
--                              e  a session that is left without keys is removed
--                              g  get: the reply has a third item, what HGETALL gives afterwards
-- ARGV[10] named             how many names of keys to remove (with r: to keep) follow
-- ARGV[11...] fields         those names, then name, value, name, value, ...
--
-- Reply    { 1, version}       OK
--          { 2, 0}             REMOVED: its expires_at has passed, or it was left without keys
--          {-1, version}       CONFLICT: the version there is; 0 for none
--          {-2, 0}             GONE
--          {-3, bytes}         TOO_LARGE: what the session would take
--          {-4, field}         CORRUPT: this field of the metadata is not ours

-- @include deadline
-- @include index
-- @include all_or_nothing

local session = KEYS[1]
local index = KEYS[2]
local member = ARGV[1]
local owner = ARGV[2]
local ttl_ms = ARGV[3]
local expected_version = ARGV[4]
local create = ARGV[5]
local since_version = ARGV[6]
local expires_at = ARGV[7]
local max_bytes = tonumber(ARGV[8])
local modes = ARGV[9]
local named = tonumber(ARGV[10])

local meta = redis.call('HMGET', session, '\255v', '\255c', '\255b', '\255e', '\255o', '\255s')
local version, size = tonumber(meta[1] or 0), tonumber(meta[6] or 0)
local exists = meta[1] and true or redis.call('EXISTS', session) == 1

if exists then
  if not meta[1] or not version then
    return {-4, '\255v'}
  elseif meta[5] ~= owner then
    return {-4, '\255o'}
  elseif not meta[6] or not size then
    return {-4, '\255s'}
  elseif meta[4] and not is_time(meta[4]) then
    return {-4, '\255e'}
  end
  local born = tonumber(meta[3] or meta[2] or '')
  if not tonumber(meta[2] or '') then
    return {-4, '\255c'}
  elseif not born then
    return {-4, '\255b'}
  elseif since_version ~= '' and born > tonumber(since_version) then
    return {-2, 0}
  end
elseif create == '0' then
  return {-2, 0}
end
if expected_version ~= '' and tonumber(expected_version) ~= version then
  return {-1, version}
end

local micros, now_ms = clock()
local own = meta[4]
if expires_at == '-' then
  own = false
elseif expires_at ~= '' then
  own = expires_at
end
local deadline, slack_ms, passed = deadline_of(own, ttl_ms, now_ms)
if passed then
  remove(session, index, member, now_ms)
  return {2, 0}
end

local before = size
local fields = {}
for i = 11 + named, #ARGV, 2 do
  local length = exists and redis.call('HSTRLEN', session, ARGV[i]) or 0
  if length == 0 then
    size = size + #ARGV[i]
  end
  size = size + #ARGV[i + 1] - length
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i + 1]
end
local going = {}
if string.find(modes, 'r', 1, true) then
  local stays = {}
  for i = 11, 10 + named do
    stays[ARGV[i]] = true
  end
  for i = 1, #fields, 2 do
    stays[fields[i]] = true
  end
  local names = redis.call('HKEYS', session)
  for i = 1, #names do
    -- The metadata's names begin with the byte 255, which is not in UTF-8.
    if not stays[names[i]] and string.byte(names[i]) ~= 255 then
      going[#going + 1] = names[i]
    end
  end
else
  for i = 11, 10 + named do
    going[#going + 1] = ARGV[i]
  end
end
local dropped = {}
for i = 1, #going do
  local length = redis.call('HSTRLEN', session, going[i])
  if length > 0 then
    size = size - length - #going[i]
    dropped[#dropped + 1] = going[i]
  end
end
-- A key takes a byte at least, the one of its value.
if size == 0 and string.find(modes, 'e', 1, true) then
  remove(session, index, member, now_ms)
  return {2, 0}
end
if size > max_bytes and size > before then
  return {-3, size}
end

local new = string.format('%.0f', math.max(version + 1, micros))
local all = {'\255v', new, '\255s', string.format('%.0f', size)}
if not exists then
  all[5], all[6], all[7], all[8] = '\255c', new, '\255o', owner
end
if expires_at == '-' then
  dropped[#dropped + 1] = '\255e'
elseif expires_at ~= '' then
  all[#all + 1], all[#all + 2] = '\255e', expires_at
end
for i = 1, #fields do
  all[#all + 1] = fields[i]
end
write(session, index, member, exists, deadline, slack_ms, now_ms, all, dropped)
if string.find(modes, 'g', 1, true) then
  return {1, tonumber(new), redis.call('HGETALL', session)}
end
return {1, tonumber(new)}

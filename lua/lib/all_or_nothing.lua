-- Writes a session so that no failure leaves half of one. Lua does not roll back, but what can refuse a write (memory,
-- read-only, types, permissions) refuses it at its first command of that kind, and here those come before the fields do.
-- fields is {name, value, ...}, the metadata of a new session within its first 1,000 (unpack has a limit).
local function expire(session, deadline)
  if deadline then
    redis.call('PEXPIREAT', session, deadline)
  else
    redis.call('PERSIST', session)
  end
end

local function write(session, index, member, exists, deadline, slack_ms, now_ms, fields, dropped)
  local score, is_entered = score_of(index, member, deadline, slack_ms)
  -- Even where it changes nothing: the first write of a script is the one that a lack of memory refuses.
  redis.call('ZADD', index, score, member)
  if not is_entered then
    reindex(index, now_ms)
  end
  expire(session, deadline)
  for first = 1, #fields, 1000 do
    redis.call('HSET', session, unpack(fields, first, math.min(first + 999, #fields)))
  end
  if not exists then
    expire(session, deadline)
  end
  for first = 1, #dropped, 1000 do
    redis.call('HDEL', session, unpack(dropped, first, math.min(first + 999, #dropped)))
  end
end

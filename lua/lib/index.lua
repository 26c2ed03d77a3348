-- Drops from a user's index what has expired, then lets the index live just as long as its longest member.
local function reindex(index, now_ms)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. now_ms)
  local longest = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  if longest == 'inf' then
    redis.call('PERSIST', index)
  elseif longest then
    redis.call('PEXPIREAT', index, longest)
  end
end

-- Removes a session and its entry; 1 if it was there, else 0.
local function remove(session, index, member, now_ms)
  local were_there = redis.call('UNLINK', session)
  redis.call('ZREM', index, member)
  reindex(index, now_ms)
  return were_there
end

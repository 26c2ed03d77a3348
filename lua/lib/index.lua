-- Drops from a user's index what has expired, then lets the index live just as long as its longest entry.
local function reindex(index, now_ms)
  redis.call('ZREMRANGEBYSCORE', index, '-inf', '(' .. now_ms)
  local longest = redis.call('ZRANGE', index, -1, -1, 'WITHSCORES')[2]
  if longest == 'inf' then
    redis.call('PERSIST', index)
  elseif longest then
    redis.call('PEXPIREAT', index, longest)
  end
end

-- The score that a session's entry is to have: when the session ends, or up to slack_ms later, where a rolling TTL that moves
-- on with each write would otherwise move the entry each time. Then whether it has that score already.
local function score_of(index, member, deadline, slack_ms)
  local score = redis.call('ZSCORE', index, member)
  if not deadline then
    return '+inf', score == 'inf'
  end
  local over = score and score ~= 'inf' and score - deadline or -1
  if over >= 0 and over <= slack_ms then
    return score, true
  end
  return string.format('%.0f', deadline + slack_ms), false
end

-- Removes a session and its entry; 1 if it was there, else 0.
local function remove(session, index, member, now_ms)
  local were_there = redis.call('UNLINK', session)
  redis.call('ZREM', index, member)
  reindex(index, now_ms)
  return were_there
end

-- The server's time: microseconds since 1970 as a number (exact: below 2^53), milliseconds as text.
local function clock()
  local time = redis.call('TIME')
  local micros = time[1] * 1000000 + time[2]
  return micros, string.format('%.0f', math.floor(micros / 1000))
end

-- Whether this is an expires_at that the client can have written: a number, not beyond the year 9999.
local function is_time(text)
  local micros = tonumber(text)
  return micros ~= nil and math.abs(micros) < 1e18
end

-- When a session ends, as milliseconds since 1970 in text, or false for never: at its own expires_at (microseconds since
-- 1970 as text, or false) if it has one, else by the rolling TTL. Then how much longer its entry in the index may live, in
-- milliseconds, and whether the end has passed.
local function deadline_of(expires_at, ttl_ms, now_ms)
  if expires_at then
    local at = math.ceil(tonumber(expires_at) / 1000)
    return string.format('%.0f', at), 0, at <= tonumber(now_ms)
  elseif ttl_ms ~= '' then
    return string.format('%.0f', now_ms + ttl_ms), math.floor(ttl_ms / 16), false
  end
  return false, 0, false
end

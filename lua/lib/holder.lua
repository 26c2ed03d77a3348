-- Who has a lease: what is stored, or false; whether it is the token's; whether somebody waits for it.
local function holder(lease, token)
  local stored = redis.call('GET', lease)
  if not stored then
    return false, false, false
  end
  local is_awaited = string.sub(stored, -1) == '+'
  return stored, (is_awaited and string.sub(stored, 1, -2) or stored) == token, is_awaited
end

"""What the server does with messages, each in one step: append, take, acknowledge, hand back, renew.

A sender writes to its own stream only, a reader to its own mailbox only: who may do no more than that
(docs/deployments.md, Rights) can neither speak in another's name nor take another's messages. So `TAKE` is given the
streams' names as arguments: named as keys, the server would ask for the right to write to them.

An entry of a stream holds ``n`` (its number among the sender's, without gaps), ``m`` (message id), ``t`` (timestamp,
milliseconds), ``i`` (importance), ``k`` (type), ``to`` (``*`` or ``,a,b,``) and ``c`` (the packed message).

A mailbox is a hash: ``at:SENDER`` is the id and number of the last entry that was looked at, ``held:MEMBER`` says how
often a message was handed out, to whom, and what went wrong the last time, ``kept:MEMBER`` is the content of one that
comes back from the dead letters (its member is ``=:TIMESTAMP-MESSAGE_ID``). Beside it a sorted set has the members that
are handed out, by the end of their lease.
"""

from __future__ import annotations

RETURNED = "="
"""Stands for the sender in the members that came back from the dead letters; no agent is named so."""

# KEYS: stream, ids, directory of senders
# ARGV: sender, message id, content, timestamp, importance, type, recipients, most entries, most milliseconds, skew of
#       clocks, time to live (0: none)
SEND = """
local known = redis.call('HGET', KEYS[2], ARGV[2])
if known then return {known, 0} end
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
if tonumber(ARGV[4]) > now + tonumber(ARGV[10]) then return {string.format('%.0f', now), -1} end
if redis.call('EXISTS', KEYS[1], KEYS[3]) < 2 then
  local listed = false
  for _, entry in ipairs(redis.call('XRANGE', KEYS[3], '-', '+')) do
    listed = listed or entry[2][2] == ARGV[1]
  end
  if not listed then redis.call('XADD', KEYS[3], '*', 'sender', ARGV[1]) end
end
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local number = (last and tonumber(last[2][2]) or 0) + 1
local id = redis.call('XADD', KEYS[1], '*', 'n', string.format('%.0f', number), 'm', ARGV[2], 't', ARGV[4],
                      'i', ARGV[5], 'k', ARGV[6], 'to', ARGV[7], 'c', ARGV[3])
redis.call('HSET', KEYS[2], ARGV[2], id)
local function drop(entries)
  for _, entry in ipairs(entries) do
    redis.call('XDEL', KEYS[1], entry[1])
    redis.call('HDEL', KEYS[2], entry[2][4] or '')
  end
end
local excess = redis.call('XLEN', KEYS[1]) - tonumber(ARGV[8])
if excess > 0 then drop(redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', excess)) end
local oldest = string.format('(%.0f-0', now - tonumber(ARGV[9]))
drop(redis.call('XRANGE', KEYS[1], '-', oldest, 'COUNT', 100))
if tonumber(ARGV[11]) > 0 then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[11]) end
end
return {id, 1}
"""

# KEYS: mailbox, leases
# ARGV: 1 prefix of streams, 2 run, 3 directory, 4 agent, 5 holder, 6 most to take, 7 most to look at, 8 lease,
#       9 bound on timestamps (empty: none), 10 greatest age (0: any), 11 types (empty: all), 12 least
#       importance, 13 first timestamp of a new reader, 14 time to live (0: none), 15 sender to begin with, 16 skew
#       of clocks (-1: arrivals say nothing of timestamps), 17 and on: members to acknowledge before
# Returns: messages taken, gaps, ends of what was looked at, left out by filters, whether there is more, milliseconds to
#          the end of the next lease (-1: none), the server's clock
TAKE = """
local box, leases = KEYS[1], KEYS[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local bound = tonumber(ARGV[9]) or math.huge
local left, budget, age = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[10])
local taken, missed, ends, skipped, more = {}, {}, {}, 0, 0

local function fields(entry)
  local found = {}
  for position = 1, #entry[2], 2 do found[entry[2][position]] = entry[2][position + 1] end
  return found
end
local function miss(sender, number, why)
  missed[#missed + 1] = {sender, number, why}
  redis.call('HINCRBY', box, 'missed', number)
end
local function take(sender, id, found, deliveries, note)
  local member = sender .. ':' .. id
  redis.call('ZADD', leases, now + tonumber(ARGV[8]), member)
  redis.call('HSET', box, 'held:' .. member, deliveries .. ' ' .. ARGV[5] .. ' ' .. note)
  taken[#taken + 1] = {sender, id, found.c or '', found.t or '', deliveries, note}
  left = left - 1
end

for position = 17, #ARGV do
  local done = redis.call('ZREM', leases, ARGV[position])
  redis.call('HDEL', box, 'held:' .. ARGV[position], 'kept:' .. ARGV[position])
  if done > 0 then redis.call('HINCRBY', box, 'handled', done) end
end
local new = redis.call('HSETNX', box, 'begun', string.format('%.0f', now)) == 1
redis.call('HSETNX', box, 'start', ARGV[13])
local start = tonumber(redis.call('HGET', box, 'start'))

-- Whoever asks has dealt with what it knows to be in its hands: what else it holds was in an answer that got lost.
local due = {}
for _, member in ipairs(redis.call('ZRANGE', leases, '(' .. now, '+inf', 'BYSCORE', 'LIMIT', 0, budget)) do
  local holder = string.match(redis.call('HGET', box, 'held:' .. member) or '', '^%-?%d+ (%S+) ')
  if holder == ARGV[5] and #due < left then due[#due + 1] = member end
end
for _, member in ipairs(redis.call('ZRANGE', leases, '-inf', now, 'BYSCORE', 'LIMIT', 0, left - #due)) do
  due[#due + 1] = member
end
for _, member in ipairs(due) do
  local sender, id = string.match(member, '^(.*):(.*)$')
  local held = redis.call('HGET', box, 'held:' .. member) or ''
  local deliveries, holder, note = string.match(held, '^(%-?%d+) (%S+) (.*)$')
  local found
  if sender == '=' then
    local content = redis.call('HGET', box, 'kept:' .. member)
    found = content and {c = content, t = string.match(id, '^(%d+)%-')}
  else
    local entry = redis.call('XRANGE', ARGV[1] .. sender .. ':' .. ARGV[2], id, id)[1]
    found = entry and fields(entry)
  end
  if not found then
    redis.call('ZREM', leases, member)
    redis.call('HDEL', box, 'held:' .. member)
    miss(sender, 1, 'dropped')
  elseif (tonumber(found.t) or 0) <= bound then
    take(sender, id, found, (tonumber(deliveries) or 0) + (holder == ARGV[5] and 0 or 1), note or '')
  end
end

local senders = redis.call('XRANGE', ARGV[3], '-', '+')
for step = 1, #senders do
  local sender = senders[(step + tonumber(ARGV[15])) % #senders + 1][2][2]
  local stream = ARGV[1] .. sender .. ':' .. ARGV[2]
  local at = redis.call('HGET', box, 'at:' .. sender)
  local id, number = string.match(at or '', '^(%S+) (%d+)$')
  number = tonumber(number)
  if not number and new and tonumber(ARGV[16]) >= 0 and start > tonumber(ARGV[16]) then
    -- What arrived before was dated before: it need not be looked at.
    local first = string.format('(%.0f-0', start - tonumber(ARGV[16]))
    local last = redis.call('XREVRANGE', stream, first, '-', 'COUNT', 1)[1]
    if last then id, number = last[1], tonumber(fields(last).n) end
  end
  -- One that was not there when this reader began has sent nothing before.
  if not number and not new then number = 0 end
  local before = at and number
  local shares = #senders - step + 1
  local room, look = math.ceil(left / shares), math.max(1, math.ceil(budget / shares))
  local looked, gone, old, stop = 0, 0, 0, false
  repeat
    -- Pages as small as what may be taken: most entries are for everybody.
    local size = math.min(look - looked, math.max(room, 10))
    local page = redis.call('XRANGE', stream, id and '(' .. id or '-', '+', 'COUNT', size)
    for _, entry in ipairs(page) do
      local found = fields(entry)
      local arrived = tonumber(string.match(entry[1], '^%d+'))
      local t = tonumber(found.t) or arrived
      local n = tonumber(found.n) or (number or 0) + 1
      number = number or n - 1
      if t > bound then stop = true break end
      if room == 0 then more, stop = 1, true break end
      looked = looked + 1
      if n > number + 1 then gone = gone + n - number - 1 end
      id, number = entry[1], n
      local to = found.to
      local mine = not to or (to == '*' and sender ~= ARGV[4]) or string.find(to, ',' .. ARGV[4] .. ',', 1, true)
      if mine and t >= start then
        if age > 0 and arrived < now - age then
          old = old + 1
        elseif (ARGV[11] ~= '' and not string.find(ARGV[11], ',' .. (found.k or '') .. ',', 1, true))
            or (tonumber(found.i) or 1) < tonumber(ARGV[12]) then
          skipped = skipped + 1
        else
          take(sender, entry[1], found, 1, '')
          room = room - 1
        end
      end
    end
    if looked == look then more = 1 end
  until stop or #page < size or looked == look
  budget = budget - looked
  if gone > 0 then miss(sender, gone, 'dropped') end
  if old > 0 then miss(sender, old, 'expired') end
  if number and (looked > 0 or before ~= number) then
    redis.call('HSET', box, 'at:' .. sender, (id or '0-0') .. ' ' .. string.format('%.0f', number))
  end
  ends[#ends + 1] = {stream, id or '0-0'}
end
ends[#ends + 1] = {ARGV[3], #senders > 0 and senders[#senders][1] or '0-0'}
if tonumber(ARGV[14]) > 0 then
  redis.call('PEXPIRE', box, ARGV[14])
  redis.call('PEXPIRE', leases, ARGV[14])
end
local next = redis.call('ZRANGE', leases, 0, 0, 'WITHSCORES')[2]
return {taken, missed, ends, skipped, more, next and math.max(tonumber(next) - now, 0) or -1, now}
"""

# KEYS: mailbox, leases; ARGV: members. Returns how many were still held.
ACKNOWLEDGE = """
local done = 0
for _, member in ipairs(ARGV) do
  done = done + redis.call('ZREM', KEYS[2], member)
  redis.call('HDEL', KEYS[1], 'held:' .. member, 'kept:' .. member)
end
if done > 0 then redis.call('HINCRBY', KEYS[1], 'handled', done) end
return done
"""

# KEYS: mailbox, leases; ARGV: holder, delay in milliseconds, whether the delivery counts (0, 1), note, members
HAND_BACK = """
local clock = redis.call('TIME')
local due = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
local done = 0
for position = 5, #ARGV do
  local member = ARGV[position]
  local deliveries, holder = string.match(redis.call('HGET', KEYS[1], 'held:' .. member) or '', '^(%-?%d+) (%S+) ')
  if holder == ARGV[1] then
    deliveries = tonumber(deliveries) - 1 + tonumber(ARGV[3])
    redis.call('HSET', KEYS[1], 'held:' .. member, deliveries .. ' - ' .. ARGV[4])
    redis.call('ZADD', KEYS[2], 'XX', due, member)
    done = done + 1
  end
end
return done
"""

# KEYS: mailbox, leases; ARGV: holder, lease in milliseconds, members. Returns those that are held still.
RENEW = """
local clock = redis.call('TIME')
local due = clock[1] * 1000 + math.floor(clock[2] / 1000) + tonumber(ARGV[2])
local held = {}
for position = 3, #ARGV do
  local member = ARGV[position]
  local holder = string.match(redis.call('HGET', KEYS[1], 'held:' .. member) or '', '^%-?%d+ (%S+) ')
  if holder == ARGV[1] then
    redis.call('ZADD', KEYS[2], 'XX', due, member)
    held[#held + 1] = member
  end
end
return held
"""

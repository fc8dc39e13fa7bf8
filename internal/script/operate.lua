-- include: stamps full
-- Does operations: commands that change a key, each once. docs/adr/0016 has the protocol.
--
-- KEYS:       k…, the ledger of each, and the bucket of each of these
-- ARGV:       window, StampTTL in ms ('': no stamps), how long a ledger lives, in ms, and for each
--             key: the packed stamp that names its list ('': it is not kept, and has no entry), u in
--             µs (a stamp that is later by more than that is later), and the operations, each as its
--             packed stamp, how many words it has (4 bytes), and each word with its length (4
--             bytes) in front. At last, the number of k and ledgers
-- Answer:     for each key, a list. Without an entry: 1, and the answer of each operation; or 7, and
--             an error. Else: 1 done, or had been; 2 something newer is there than all of them; 5
--             the entry is lost, and nothing was done; 7, and an error: not done, or not all. Behind
--             1 and 2 are those operations that Redis has refused for good: stamp, error, …
-- Second run: does what the ledger says is not done yet. Without an entry the window bounds how late
--             it can be
--
-- A stamp of another client that is later, or a later one of the same client, says that the key was
-- set or deleted since: then the operation is not done. One that says only that the key was changed
-- does not. The stamp that is left says that.

local now, n = clock(), count / 2
local refusal = untimely(now, ARGV[1])
if refusal then return refusal end
local ms, full, answers, lives = floor(now / 1000), whenFull(), {}, tonumber(ARGV[3])
local keep = tonumber(ARGV[2])

local function read(s)
  local ops, at = {}, 1
  while at <= #s do
    local op, words = {stamp = s:sub(at, at + 19)}, nil
    op.t, op.client, op.number, words, at = unstruct('>I7c8I5I4', s, at)
    for j = 1, words do op[j], at = unstruct('>I4c0', s, at) end
    ops[#ops+1] = op
  end
  return ops
end
-- whether what ends at ends has ended, and no later operation of before that has made it live longer,
-- or has put something else in its place
local postpones = {PERSIST = true, PEXPIREAT = true, SET = true, DEL = true}
local function over(ops, j, ends)
  if ends > ms then return false end
  for l = j + 1, #ops do
    if ops[l].t / 1000 >= ends then break end
    if postpones[ops[l][1]] then return false end
  end
  return true
end
-- an error that the same command would get again, whatever the server's state
local function forGood(err)
  return err:find('WRONGTYPE', 1, true) or err:find('not an integer', 1, true) or err:find('not a valid float', 1, true) or err:find('not a float', 1, true)
    or err:find('overflow', 1, true) or err:find('NaN or Infinity', 1, true) or err:find('out of range', 1, true) or err:find('nknown', 1, true) and err:find('command', 1, true)
    or err:find('rong number of arg', 1, true) or err:find('maximum allowed size', 1, true) or err:find('invalid expire', 1, true) or err:find('syntax error', 1, true)
end
-- does operation j. An error is an answer: raised, it would end the script between an operation that was
-- done and the ledger. Behind the answer are when the key has ended by it, and when it ends by it: false
-- if it does not end any more, nil if that is as it was
local function run(key, ops, j)
  local op = ops[j]
  if op[1] == 'SET' then
    local ends = tonumber(op[4])
    if ends and over(ops, j, ends) then
      local said = redis.pcall('UNLINK', key)
      if type(said) == 'table' then return said end
      return {ok = 'OK'}, ends, ends
    end
    if ends and ends > ms and ends - ms <= LONGEST_TTL then return redis.pcall('PSETEX', key, ends - ms, op[2]), nil, ends end
    return redis.pcall('SET', key, op[2]), nil, false
  end
  local ends = op[1] == 'PEXPIREAT' and tonumber(op[2])
  if ends and ends <= ms and not over(ops, j, ends) then return 1 end
  local said = redis.pcall(op[1], key, unpack(op, 2))
  -- 0: there was nothing to end
  if ends then return said, said == 1 and ends <= ms and ends, said == 1 and ends or nil end
  if postpones[op[1]] then return said, nil, false end
  return said
end
local function shrinks(op) return op[1] == 'DEL' or op[1] == 'HDEL' or op[1] == 'SREM' or op[1] == 'PEXPIREAT' or op[1] == 'PERSIST' end

local function operate(i, id, u, ops)
  local key, ledger, done, was, noted = KEYS[i], KEYS[n+i], nil, '', {}
  if id ~= '' then
    local led = call('HMGET', ledger, id, id .. '!')
    if not led[1] then return {5} end
    done, was = led[1], led[2] or ''
  elseif full then
    for j = 1, #ops do
      if not shrinks(ops[j]) then return {7, full.err} end
    end
  end
  local c, head
  if keep then c, head = stampOf(i) end
  local cAt, cClient, cNumber, cEnds, cOther, cChanged, cMargin
  if c then cAt, cClient, cNumber, cEnds, cOther, cChanged, cMargin = parts(c) end
  if c and cMargin > u then u = cMargin end
  -- of two writes that nobody can order one may be an operation: none is dropped for the time or number of that
  local alone, since = c and cOther == 0, c and cOther ~= 0 and math.min(cAt, cOther) or cAt
  local function overtaken(op)
    if cClient == op.client and alone then return cNumber > op.number end
    return since > op.t + u
  end
  local doneAt, verdict, last = done and done ~= '' and unstruct('>I7', done) or 0, 2, nil
  -- when the key ends by what was done, and when it has ended
  local ending, gone = done and tonumber(done:sub(28)), nil
  local out, failed, ran = {}, nil, false
  for j = 1, #ops do
    local op = ops[j]
    if done and op.t <= doneAt then
      verdict = 1
      -- an earlier run has set an end that has passed since: it took along what came before it
      if ending and (not ops[j+1] or ops[j+1].t > doneAt) and over(ops, j, ending) then gone = ending end
    elseif done and c and not cChanged and overtaken(op) or done and gone and op.t / 1000 < gone then
      last = op
    else
      if full and not shrinks(op) then failed = full break end
      if not ran then
        -- a lock, or that there is nothing, is no value
        local head = redis.pcall('GETRANGE', key, 0, 11)
        if type(head) == 'string' and (head:find('^%zaside:1[mn]') or head:find('^%zaside:lock:')) then call('UNLINK', key) end
        ran = true
      end
      local said, ended, ends = run(key, ops, j)
      if type(said) == 'table' and said.err then
        if not done and j == 1 and not forGood(said.err) then return {7, said.err} end
        if done and not forGood(said.err) then failed = said break end
        noted[#noted+1] = op.stamp .. struct_('>I4', #said.err) .. said.err
      end
      if not done and type(said) == 'number' and math.abs(said) >= 2^53 then
        -- Lua has it rounded
        if op[1] == 'HINCRBY' then said = call('HGET', key, op[2]) else said = call('GET', key) end
      end
      gone = ended or gone
      if ends ~= nil and not (type(said) == 'table' and said.err) then ending = ends end
      verdict, last = 1, op
      out[#out+1] = said
    end
  end
  if last and done then
    call('HSET', ledger, id, last.stamp .. struct_('>I7', now) .. (ending and string.format('%d', ending) or ''))
    if #noted > 0 then
      was = was .. table.concat(noted)
      call('HSET', ledger, id .. '!', was)
    end
    call('PEXPIRE', ledger, lives)
  end
  local at = done and last and last.t < now and last.t or now
  local newer = not c or cAt < at
  if last and verdict == 1 and keep and (newer or ran) then
    local left, ends, stamp = call('PTTL', key), 0, nil
    if left == -1 then left = LONGEST_TTL end
    if left > 0 then ends = ms + left end
    -- under a later stamp there is a value all the same, which an earlier Set or Del must leave
    if newer then stamp = stored(at, last.client, last.number, ends, 0, true, done and u or 0)
    elseif ends ~= cEnds then stamp = stored(cAt, cClient, cNumber, ends, cOther, cChanged, cMargin) end
    if stamp then
      if full then forget(i) end
      placeIn(KEYS[count+i], head, ms, ends, keep, fieldOf(key), stamp)
    end
  end
  if failed then return {7, failed.err} end
  if not done then return {1, out} end
  local refused, at = {}, 1
  while at <= #was do refused[#refused+1], refused[#refused+2], at = unstruct('>c20I4c0', was, at) end
  return {verdict, refused}
end

for i = 1, n do answers[i] = operate(i, ARGV[3*i+1], tonumber(ARGV[3*i+2]), read(ARGV[3*i+3])) end
return answers

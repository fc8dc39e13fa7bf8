package resp

import (
	"maps"
	"math"
	"math/big"
	"regexp"
	"strings"
	"time"

	"github.com/redaside/aside/cmd/aside/internal/proxy"
)

func init() {
	pairs := [3]int{1, -1, 2}
	twoKeys := [3]int{1, 2, 1}
	maps.Copy(steps, map[string]*step{
		"GET":         {arity: 2, keys: oneKey, reads: true, run: stepGet},
		"MGET":        {arity: -2, keys: allKeys, reads: true, run: stepMget},
		"EXISTS":      {arity: -2, keys: allKeys, reads: true, run: stepExists},
		"TOUCH":       {arity: -2, keys: allKeys, reads: true, run: stepExists},
		"TYPE":        {arity: 2, keys: oneKey, reads: true, run: stepType},
		"STRLEN":      {arity: 2, keys: oneKey, reads: true, run: stepStrlen},
		"GETRANGE":    {arity: 4, keys: oneKey, reads: true, run: stepGetrange},
		"SUBSTR":      {arity: 4, keys: oneKey, reads: true, run: stepGetrange},
		"TTL":         {arity: 2, keys: oneKey, reads: true, run: stepLeft(time.Second)},
		"PTTL":        {arity: 2, keys: oneKey, reads: true, run: stepLeft(time.Millisecond)},
		"EXPIRETIME":  {arity: 2, keys: oneKey, reads: true, run: stepEnds(time.Second)},
		"PEXPIRETIME": {arity: 2, keys: oneKey, reads: true, run: stepEnds(time.Millisecond)},

		"SET":    {arity: -3, keys: oneKey, run: stepSet},
		"SETEX":  {arity: 4, keys: oneKey, run: stepSetFor("setex", "EX")},
		"PSETEX": {arity: 4, keys: oneKey, run: stepSetFor("psetex", "PX")},
		"MSET":   {arity: -3, keys: pairs, run: stepMset},
		"DEL":    {arity: -2, keys: allKeys, run: stepDel},
		"UNLINK": {arity: -2, keys: allKeys, run: stepDel},

		"SETNX":       {arity: 3, keys: oneKey, run: stepSetnx},
		"MSETNX":      {arity: -3, keys: pairs, run: stepMsetnx},
		"GETSET":      {arity: 3, keys: oneKey, run: stepGetset},
		"GETDEL":      {arity: 2, keys: oneKey, run: stepGetdel},
		"GETEX":       {arity: -2, keys: oneKey, run: stepGetex},
		"APPEND":      {arity: 3, keys: oneKey, run: stepAppend},
		"SETRANGE":    {arity: 4, keys: oneKey, run: stepSetrange},
		"INCR":        {arity: 2, keys: oneKey, run: func(s *stage, args []string) answer { return s.add(args[0], 1) }},
		"DECR":        {arity: 2, keys: oneKey, run: func(s *stage, args []string) answer { return s.add(args[0], -1) }},
		"INCRBY":      {arity: 3, keys: oneKey, run: stepIncrby},
		"DECRBY":      {arity: 3, keys: oneKey, run: stepDecrby},
		"INCRBYFLOAT": {arity: 3, keys: oneKey, run: stepIncrbyfloat},
		"EXPIRE":      {arity: -3, keys: oneKey, run: stepExpire("expire", 1000, false)},
		"PEXPIRE":     {arity: -3, keys: oneKey, run: stepExpire("pexpire", 1, false)},
		"EXPIREAT":    {arity: -3, keys: oneKey, run: stepExpire("expireat", 1000, true)},
		"PEXPIREAT":   {arity: -3, keys: oneKey, run: stepExpire("pexpireat", 1, true)},
		"PERSIST":     {arity: 2, keys: oneKey, run: stepPersist},
		"RENAME":      {arity: 3, keys: twoKeys, run: stepRename},
		"RENAMENX":    {arity: 3, keys: twoKeys, run: stepRenamenx},
		"COPY":        {arity: -3, keys: twoKeys, run: stepCopy},
	})
}

// Reads.

func stepGet(s *stage, args []string) answer {
	if e, ok := s.get(args[0]); ok && e.exists {
		return e.Data
	}
	return nil
}

func stepMget(s *stage, args []string) answer {
	all := make([]answer, len(args))
	for i := range args {
		all[i] = stepGet(s, args[i:])
		s.wrong = false // what is no string is answered as nothing
	}
	return all
}

func stepExists(s *stage, args []string) answer {
	n := int64(0)
	for _, key := range args {
		if exists, _ := s.there(key); exists {
			n++
		}
	}
	return n
}

func stepType(s *stage, args []string) answer {
	if exists, _ := s.there(args[0]); exists {
		return status(s.known[args[0]].kind)
	}
	return status("none")
}

func stepStrlen(s *stage, args []string) answer {
	e, _ := s.get(args[0])
	return int64(len(e.Data))
}

func stepGetrange(s *stage, args []string) answer {
	from, ok := number(args[1])
	to, also := number(args[2])
	if !ok || !also {
		return failure(notInteger)
	}
	e, _ := s.get(args[0])
	size := int64(len(e.Data))
	if from < 0 && to < 0 && from > to {
		return ""
	}
	if from < 0 {
		from = max(from+size, 0)
	}
	if to < 0 {
		to = max(to+size, 0)
	}
	if to = min(to, size-1); from > to || size == 0 {
		return ""
	}
	return e.Data[from : to+1]
}

func stepLeft(unit time.Duration) func(s *stage, args []string) answer {
	return leftBy(func(_ *stage, ttl time.Duration) int64 { return int64((ttl + unit/2) / unit) })
}

// stepEnds is EXPIRETIME. The end is known by what is left, so it goes by this machine's clock.
func stepEnds(unit time.Duration) func(s *stage, args []string) answer {
	return leftBy(func(s *stage, ttl time.Duration) int64 {
		return (s.now.Add(ttl).UnixMilli() + int64(unit/time.Millisecond)/2) / int64(unit/time.Millisecond)
	})
}

// leftBy answers how a key ends.
func leftBy(says func(s *stage, ttl time.Duration) int64) func(s *stage, args []string) answer {
	return func(s *stage, args []string) answer {
		exists, _ := s.there(args[0])
		e := s.known[args[0]]
		switch {
		case !exists:
			return int64(-2)
		case e.endUnknown:
			s.missing = true
			return nil
		case e.TTL == proxy.NoExpiry:
			return int64(-1)
		default:
			return says(s, e.TTL)
		}
	}
}

// Writes.

func stepSet(s *stage, args []string) answer {
	o, ok := parseSet(args[2:])
	if !ok {
		return failure(syntaxError)
	}
	v := proxy.Value{Data: args[1], TTL: proxy.NoExpiry}
	if o.unit != "" {
		var wrong string
		if v.TTL, wrong = endOf("set", o.unit, o.amount); wrong != "" {
			return failure(wrong)
		}
	}
	if !o.nx && !o.xx && !o.keepTTL && !o.get {
		s.put(args[0], v)
		return done
	}
	var reply answer = done
	if o.get {
		if reply = stepGet(s, args); s.missing || s.wrong {
			return nil
		}
	}
	exists, ok := s.there(args[0])
	if !ok {
		return nil
	}
	if o.nx && exists || o.xx && !exists {
		if o.get {
			return reply
		}
		return nil
	}
	if o.keepTTL && exists {
		e := s.known[args[0]]
		if e.endUnknown {
			s.missing = true
			return nil
		}
		v.TTL = e.TTL
	}
	s.put(args[0], v)
	return reply
}

func stepSetFor(name, unit string) func(s *stage, args []string) answer {
	return func(s *stage, args []string) answer {
		ttl, wrong := endOf(name, unit, args[1])
		if wrong != "" {
			return failure(wrong)
		}
		s.put(args[0], proxy.Value{Data: args[2], TTL: ttl})
		return done
	}
}

func stepMset(s *stage, args []string) answer {
	if len(args)%2 != 0 {
		return failure(wrongNumber("mset"))
	}
	for i := 0; i < len(args); i += 2 {
		s.put(args[i], proxy.Value{Data: args[i+1], TTL: proxy.NoExpiry})
	}
	return done
}

func stepMsetnx(s *stage, args []string) answer {
	if len(args)%2 != 0 {
		return failure(wrongNumber("msetnx"))
	}
	for i := 0; i < len(args); i += 2 {
		if exists, _ := s.there(args[i]); exists {
			return int64(0)
		}
	}
	if s.missing {
		return nil
	}
	stepMset(s, args)
	return int64(1)
}

func stepDel(s *stage, args []string) answer {
	n := int64(0)
	for _, key := range args {
		if e := s.entry(key); e.exists || e.part && s.held[key] { // what is not known is not counted
			n++
		}
		s.drop(key)
	}
	return n
}

func stepSetnx(s *stage, args []string) answer {
	if exists, ok := s.there(args[0]); !ok || exists {
		return int64(0)
	}
	s.put(args[0], proxy.Value{Data: args[1], TTL: proxy.NoExpiry})
	return int64(1)
}

func stepGetset(s *stage, args []string) answer {
	was := stepGet(s, args)
	if s.wrong || s.missing {
		return nil
	}
	s.put(args[0], proxy.Value{Data: args[1], TTL: proxy.NoExpiry})
	return was
}

func stepGetdel(s *stage, args []string) answer {
	e, ok := s.get(args[0])
	if !ok || !e.exists {
		return nil
	}
	s.drop(args[0])
	return e.Data
}

func stepGetex(s *stage, args []string) answer {
	if len(args) == 1 {
		return stepGet(s, args)
	}
	unit, amount, ok := parseGetex(args[1:])
	if !ok {
		return failure(syntaxError)
	}
	e, ok := s.get(args[0])
	if !ok || !e.exists {
		return nil
	}
	v := e.Value
	if v.TTL = proxy.NoExpiry; unit != "PERSIST" {
		var wrong string
		if v.TTL, wrong = endOf("getex", unit, amount); wrong != "" {
			return failure(wrong)
		}
	}
	s.put(args[0], v)
	return e.Data
}

func stepAppend(s *stage, args []string) answer {
	e, ok := s.text(args[0], "")
	if !ok {
		return nil
	}
	if len(e.Data)+len(args[1]) > s.most {
		return tooLong
	}
	s.change(args[0], e, e.Data+args[1])
	return int64(len(e.Data) + len(args[1]))
}

// text is get for steps that are kept as operations where the string is not known: then they go on
// with what is known here of it, or with nothing, which is inexact.
func (s *stage) text(key, nothing string) (entry, bool) {
	e := s.entry(key)
	if e.exists && e.kind != aString {
		s.wrong = true
		return entry{}, false
	}
	s.inexact = s.inexact || e.part
	now := *e
	if !e.exists && !e.vague {
		now.Data = nothing
	}
	return now, true
}

// summed is text for what is added to. Where a content type is known to stand before the number, an
// operation would be refused by Redis.
func (s *stage) summed(key string) (entry, bool) {
	e, ok := s.text(key, "0")
	s.missing = s.missing || ok && e.part && e.ContentType != ""
	return e, ok
}

// change has key, which held e, hold the string data: its end and its content type stay.
func (s *stage) change(key string, e entry, data string) {
	e.Data, e.vague = data, e.part
	if !e.exists && !e.part {
		e.Value = proxy.Value{Data: data, TTL: proxy.NoExpiry}
	}
	e.kind, e.exists = aString, true
	s.known[key], s.changed[key] = &e, true
}

func stepSetrange(s *stage, args []string) answer {
	at, ok := number(args[1])
	switch {
	case !ok:
		return failure(notInteger)
	case at < 0:
		return failure("ERR offset is out of range")
	}
	e, ok := s.get(args[0])
	switch {
	case !ok:
		return nil
	case args[2] == "":
		return int64(len(e.Data))
	case at > int64(s.most) || int(at)+len(args[2]) > s.most:
		return tooLong
	}
	data := make([]byte, max(len(e.Data), int(at)+len(args[2])))
	copy(data, e.Data)
	copy(data[at:], args[2])
	s.change(args[0], e, string(data))
	return int64(len(data))
}

func stepIncrby(s *stage, args []string) answer {
	n, ok := number(args[1])
	if !ok {
		return failure(notInteger)
	}
	return s.add(args[0], n)
}

func stepDecrby(s *stage, args []string) answer {
	n, ok := number(args[1])
	switch {
	case !ok:
		return failure(notInteger)
	case n == math.MinInt64:
		return failure("ERR decrement would overflow")
	}
	return s.add(args[0], -n)
}

func (s *stage) add(key string, by int64) answer {
	e, ok := s.summed(key)
	if !ok {
		return nil
	}
	n, ok := number(e.Data)
	if !ok {
		s.missing = s.missing || e.part
		return failure(notInteger)
	}
	sum, ok := sumOf(n, by)
	if !ok {
		s.missing = s.missing || e.part
		return overflow
	}
	s.change(key, e, whole(sum))
	return sum
}

func stepIncrbyfloat(s *stage, args []string) answer {
	e, ok := s.summed(args[0])
	if !ok {
		return nil
	}
	sum, ok := sumOfFloats(e.Data, args[1])
	if !ok && !e.part && notFloat(args[1]) {
		return failure(noFloat)
	}
	if !ok { // Redis may say otherwise what it is, or that it is none
		s.missing = true
		return nil
	}
	s.change(args[0], e, sum)
	return sum
}

// precisions are the mantissas of what C calls a long double where Redis runs: x86, and ARM.
var precisions = [...]uint{64, 113}

// sumOfFloats adds as Redis does, in the precision of the server's machine. false: one of them is no
// plain decimal number, or the machines differ.
func sumOfFloats(a, b string) (string, bool) {
	x, ok := plainDecimal(a)
	y, also := plainDecimal(b)
	if !ok || !also {
		return "", false
	}
	sum := ""
	for i, precision := range precisions {
		of := func(r *big.Rat) *big.Float { return new(big.Float).SetPrec(precision).SetRat(r) }
		text := new(big.Float).SetPrec(precision).Add(of(x), of(y)).Text('f', 17)
		text = strings.TrimSuffix(strings.TrimRight(text, "0"), ".")
		if text == "-0" {
			text = "0"
		}
		if i > 0 && text != sum {
			return "", false
		}
		sum = text
	}
	return sum, true
}

const noFloat = "ERR value is not a valid float"

// notFloat reports whether Redis takes s for no number, on every machine and in every version: what
// C's strtold does not read to the end, and what begins with a space. Of what is empty, or has a zero byte, the
// versions say different things.
func notFloat(s string) bool {
	return s != "" && !strings.Contains(s, "\x00") && !floatInC.MatchString(strings.ToLower(s))
}

var floatInC = regexp.MustCompile(`^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|0x([\da-f]+\.?[\da-f]*|\.[\da-f]+)(p[+-]?\d+)?|inf(inity)?)$`)

// plainDecimal reads a number that has at most a sign, digits, and a point between digits.
func plainDecimal(s string) (*big.Rat, bool) {
	digits := strings.TrimPrefix(s, "-")
	before, after, point := strings.Cut(digits, ".")
	plain := func(s string) bool { return s != "" && len(s) <= 40 && strings.Trim(s, "0123456789") == "" }
	if !plain(before) || point && !plain(after) {
		return nil, false
	}
	return new(big.Rat).SetString(s)
}

// sameEnd is how much two ends may differ that are the same: they were reckoned by clocks that were
// read at different times.
const sameEnd = time.Second

// stepExpire is EXPIRE and its like: in units of so many ms, from now or from 1970.
func stepExpire(name string, unit int64, absolute bool) func(s *stage, args []string) answer {
	return func(s *stage, args []string) answer {
		nx, xx, gt, lt, wrong := parseExpire(args[2:])
		if wrong != "" {
			return failure(wrong)
		}
		n, ok := number(args[1])
		now := s.now.UnixMilli()
		switch {
		case !ok:
			return failure(notInteger)
		case n > math.MaxInt64/unit || n < math.MinInt64/unit || !absolute && n > 0 && n*unit > math.MaxInt64-now:
			return failure("ERR invalid expire time in '" + name + "' command")
		}
		e := s.entry(args[0])
		certain := (e.exists || !e.part) && !e.endUnknown
		if !certain && (nx || xx || gt || lt) {
			s.missing = true
			return nil
		}
		if !e.exists && !e.part {
			return int64(0)
		}
		millis := n * unit
		if absolute {
			millis = max(millis, 0) - now
		}
		ttl := proxy.LongestTTL + 1 // no end
		if millis <= proxy.LongestTTL.Milliseconds() {
			ttl = time.Duration(max(millis, 0)) * time.Millisecond
		}
		has := e.TTL != proxy.NoExpiry
		if apart := ttl - e.TTL; (gt || lt) && has && max(apart, -apart) <= sameEnd {
			s.missing = true
			return nil
		}
		if nx && has || xx && !has || gt && (!has || ttl <= e.TTL) || lt && has && ttl >= e.TTL {
			return int64(0)
		}
		s.inexact = s.inexact || !e.exists
		s.end(args[0], ttl)
		return int64(1)
	}
}

// end has what key holds end in ttl. Where nobody knows whether it holds anything, nobody knows then how
// it ends, unless it is over.
func (s *stage) end(key string, ttl time.Duration) {
	if ttl == 0 {
		s.drop(key)
		return
	}
	e := s.entry(key)
	if ttl > proxy.LongestTTL {
		ttl = proxy.NoExpiry
	}
	e.TTL, e.endUnknown = ttl, !e.exists
	s.changed[key] = true
}

func stepPersist(s *stage, args []string) answer {
	e := s.entry(args[0])
	if !e.part && !e.exists || !e.endUnknown && e.TTL == proxy.NoExpiry {
		return int64(0)
	}
	s.inexact = s.inexact || e.endUnknown
	s.end(args[0], proxy.NoExpiry)
	return int64(1)
}

// stepRename moves strings only: of anything else there may be more than is known here.
func stepRename(s *stage, args []string) answer {
	e, ok := s.moved(args[0])
	switch {
	case !ok:
		return nil
	case !e.exists:
		return noSuch
	}
	s.drop(args[0])
	s.put(args[1], e.Value)
	return done
}

// moved is get for what is moved or copied.
func (s *stage) moved(key string) (entry, bool) {
	e, ok := s.get(key)
	s.wrong, s.missing = false, s.missing || !ok
	return e, ok
}

func stepRenamenx(s *stage, args []string) answer {
	e, ok := s.moved(args[0])
	if ok && !e.exists {
		return noSuch
	}
	if exists, also := s.there(args[1]); !ok || !also || exists {
		return int64(0)
	}
	s.drop(args[0])
	s.put(args[1], e.Value)
	return int64(1)
}

// stepCopy is COPY within the one database.
func stepCopy(s *stage, args []string) answer {
	replace := false
	for _, option := range args[2:] {
		if !strings.EqualFold(option, "REPLACE") {
			s.missing = true // DB, or what Redis must say
			return nil
		}
		replace = true
	}
	if args[0] == args[1] {
		return failure("ERR source and destination objects are the same")
	}
	e, ok := s.moved(args[0])
	if !ok || !e.exists {
		return int64(0)
	}
	if !replace {
		if exists, also := s.there(args[1]); !also || exists {
			return int64(0)
		}
	}
	s.put(args[1], e.Value)
	return int64(1)
}

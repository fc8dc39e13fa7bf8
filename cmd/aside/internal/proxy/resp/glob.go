package resp

import "slices"

// Matcher returns what reports whether a key matches one of patterns of Redis's; nil if there are none.
func Matcher(patterns []string) func(key string) bool {
	if len(patterns) == 0 {
		return nil
	}
	return func(key string) bool {
		return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, key) })
	}
}

// matches reports whether a key matches a pattern of Redis's: * ? [a-z] [^a] and \ before what stands for itself.
// It takes no longer than the product of the two lengths, whatever the pattern.
func matches(pattern, key string) bool {
	star, again := -1, 0 // behind the latest *, and where in the key it ends
	p, k := 0, 0
	for k < len(key) {
		if p < len(pattern) && pattern[p] == '*' {
			p++
			star, again = p, k
			continue
		}
		if p < len(pattern) {
			if n, ok := matchesOne(pattern[p:], key[k]); ok {
				p, k = p+n, k+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		again++
		p, k = star, again
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// matchesOne reports whether the first element of a pattern matches b, and how long that element is.
func matchesOne(pattern string, b byte) (length int, ok bool) {
	switch {
	case pattern[0] == '?':
		return 1, true
	case pattern[0] == '\\' && len(pattern) > 1:
		return 2, pattern[1] == b
	case pattern[0] != '[':
		return 1, pattern[0] == b
	}
	i := 1
	not := i < len(pattern) && pattern[i] == '^'
	if not {
		i++
	}
	for ; i < len(pattern); i++ {
		rest := pattern[i:]
		switch {
		case rest[0] == '\\' && len(rest) > 1:
			i++
			ok = ok || rest[1] == b
		case rest[0] == ']':
			return i + 1, ok != not
		case len(rest) > 2 && rest[1] == '-':
			i += 2
			ok = ok || min(rest[0], rest[2]) <= b && b <= max(rest[0], rest[2])
		default:
			ok = ok || rest[0] == b
		}
	}
	return i, ok != not // it does not end
}

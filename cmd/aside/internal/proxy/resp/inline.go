package resp

// splitInline appends to args the words of a line, as Redis does (sdssplitargs): words are
// separated by white space; in "…" stand \n \r \t \b \a \xHH and \ before any other byte; in '…'
// only \'. A closing quote ends the word. false if a quote is not closed, or something follows it.
func splitInline(line []byte, args []string) ([]string, bool) {
	for i := 0; ; {
		for i < len(line) && isSpace(line[i]) {
			i++
		}
		if i >= len(line) || line[i] == 0 { // C's strings end there
			return args, true
		}
		var word []byte
		var quote byte
	word:
		for ; ; i++ {
			if i >= len(line) {
				if quote != 0 {
					return args, false
				}
				break
			}
			b := line[i]
			switch {
			case quote == '"' && b == '\\' && i+3 < len(line) && line[i+1] == 'x' && isHex(line[i+2]) && isHex(line[i+3]):
				word = append(word, unhex(line[i+2])<<4|unhex(line[i+3]))
				i += 3
			case quote == '"' && b == '\\' && i+1 < len(line):
				i++
				word = append(word, unescape(line[i]))
			case quote == '\'' && b == '\\' && i+1 < len(line) && line[i+1] == '\'':
				i++
				word = append(word, '\'')
			case quote != 0 && b == quote:
				if i++; i < len(line) && !isSpace(line[i]) && line[i] != 0 {
					return args, false
				}
				break word
			case quote != 0 && b == 0:
				return args, false
			case quote != 0:
				word = append(word, b)
			case b == ' ' || b == '\n' || b == '\r' || b == '\t' || b == 0:
				break word
			case b == '"' || b == '\'':
				quote = b
			default:
				word = append(word, b)
			}
		}
		args = append(args, string(word))
	}
}

func isSpace(b byte) bool { return b == ' ' || b >= '\t' && b <= '\r' }

func isHex(b byte) bool {
	return b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
}

func unhex(b byte) byte {
	switch {
	case b <= '9':
		return b - '0'
	case b <= 'F':
		return b - 'A' + 10
	default:
		return b - 'a' + 10
	}
}

func unescape(b byte) byte {
	switch b {
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 't':
		return '\t'
	case 'b':
		return '\b'
	case 'a':
		return '\a'
	default:
		return b
	}
}

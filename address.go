package aside

import (
	"fmt"
	"net"
	"strings"
	"unicode"
)

// defaultAddress is where Redis is if nothing else is said.
const defaultAddress = "127.0.0.1:6379"

// badAddress says what is wrong with an address and what to do; "" if nothing is. With a dialer of
// their own, users may write what that takes.
func badAddress(address string, ownDialer bool) string {
	if strings.TrimSpace(address) == "" {
		return "each address must be host:port, or leave the list empty for " + defaultAddress
	}
	if scheme, _, ok := strings.Cut(address, "://"); ok {
		return "each address must be host:port, and this is a url: let rueidis.ParseURL(\"" + scheme + "://…\") make Options.Redis"
	}
	if ownDialer {
		return ""
	}
	if strings.HasPrefix(address, "/") {
		return "each address must be host:port; for a socket let rueidis.ParseURL(\"unix:///path\") make Options.Redis"
	}
	if strings.ContainsFunc(address, unicode.IsSpace) {
		return "each address must be host:port, without spaces; several addresses are several elements"
	}
	if strings.ContainsAny(address, ",;") {
		return "each address must be host:port; several addresses are several elements"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return "each address must be host:port, such as " + defaultAddress + " or [::1]:6379 (" + strings.TrimPrefix(err.Error(), "address "+address+": ") + ")"
	}
	if _, err := net.LookupPort("tcp", port); err != nil || port == "" || port == "0" {
		return fmt.Sprintf("each address must be host:port, and %q is no port", port)
	}
	if strings.ContainsAny(host, "@/") {
		return "each address must be host:port: user and password belong into Options.Redis.Username and Password, the database into SelectDB"
	}
	return ""
}

// withoutSecrets leaves out what may be a password.
func withoutSecrets(address string) string {
	scheme, rest, ok := strings.Cut(address, "://")
	if !ok {
		scheme, rest = "", address
	} else {
		scheme += "://"
	}
	if i := strings.LastIndex(rest, "@"); i >= 0 {
		return scheme + "xxxxx" + rest[i:]
	}
	return address
}

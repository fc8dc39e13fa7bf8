package config

import (
	"fmt"
	"strings"
)

// Reference is the table of all settings in docs/PROXY.md, as Markdown.
func Reference() string {
	var b strings.Builder
	group := ""
	for _, s := range Settings() {
		if s.Group != group {
			group = s.Group
			fmt.Fprintf(&b, "\n### %s\n\n| setting | type | default | environment | flag | |\n|---|---|---|---|---|---|\n", group)
		}
		flag := "none: others could read it"
		if f := s.Flag(); f != "" {
			flag = "`--" + f + "`"
		}
		def := "none"
		if s.Default != "" {
			def = "`" + s.Default + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | `%s` | %s | %s |\n", s.Name, s.Type, def, s.Env(), flag, strings.ReplaceAll(s.Help, "|", `\|`))
	}
	return strings.TrimPrefix(b.String(), "\n")
}

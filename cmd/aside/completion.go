package main

import (
	"fmt"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// Help implements kong.HelpProvider.
func (*completionCmd) Help() string {
	return "bash: source <(aside completion bash), in ~/.bashrc.\n\nzsh: aside completion zsh > \"${fpath[1]}/_aside\".\n\n" +
		"fish: aside completion fish > ~/.config/fish/completions/aside.fish."
}

func (c *completionCmd) Run(e *env) error {
	script := map[string]func(*kong.Application) string{"bash": bashCompletion, "zsh": zshCompletion, "fish": fishCompletion}[c.Shell]
	e.printf("%s", script(e.model))
	return nil
}

// flagsOf are the flags of a command, those of all commands included.
func flagsOf(command *kong.Node) []*kong.Flag {
	var all []*kong.Flag
	for _, group := range command.AllFlags(true) {
		all = append(all, group...)
	}
	return all
}

// words are the flags of a command as one types them. What needs a value is followed by it or by
// "=".
func words(command *kong.Node) []string {
	var all []string
	for _, f := range flagsOf(command) {
		all = append(all, "--"+f.Name)
		if f.Tag.Negatable != "" {
			all = append(all, "--no-"+f.Name)
		}
	}
	return all
}

// takesFiles reports whether a flag or argument is a file or a directory, by what stands for it in
// the help.
func takesFiles(v *kong.Value) bool {
	return v.Tag != nil && (v.Tag.PlaceHolder == "FILE" || v.Tag.PlaceHolder == "DIR" || v.Name == "dir" || v.Flag != nil && v.Flag.PlaceHolder == "FILE")
}

func commandNames(app *kong.Application) []string {
	var names []string
	for _, command := range app.Children {
		names = append(names, command.Name)
	}
	return names
}

// enumOf is what an argument or a flag may be, where these are few words.
func enumOf(v *kong.Value) []string {
	if v.Enum != "" {
		return strings.Split(v.Enum, ",")
	}
	if v.Flag == nil {
		return nil
	}
	for _, s := range config.Settings() {
		if s.Flag() == v.Flag.Name {
			return s.Choices
		}
	}
	return nil
}

func bashCompletion(app *kong.Application) string {
	var b strings.Builder
	b.WriteString(`# bash completion of aside. Use: source <(aside completion bash)
_aside() {
  local word=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]} command= flags= values= files= i
  # --flag=word is three words here
  if [[ $word == = ]]; then
    word=
  elif [[ $previous == = ]]; then
    previous=${COMP_WORDS[COMP_CWORD-2]}
  fi
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${COMP_WORDS[i]} in
      -*) ;;
      *) command=${COMP_WORDS[i]}; break ;;
    esac
  done
  case $command in
`)
	for _, command := range app.Children {
		fmt.Fprintf(&b, "    %s)\n      flags=%q\n", command.Name, strings.Join(words(command), " "))
		for _, p := range command.Positional {
			if values := enumOf(p); len(values) > 0 {
				fmt.Fprintf(&b, "      values=%q\n", strings.Join(values, " "))
			}
			if takesFiles(p) {
				b.WriteString("      files=1\n")
			}
		}
		var files, others, choices []string
		for _, f := range flagsOf(command) {
			switch {
			case f.IsBool():
			case len(enumOf(f.Value)) > 0:
				choices = append(choices, fmt.Sprintf("        --%s) COMPREPLY=($(compgen -W %q -- \"$word\")); return ;;\n", f.Name, strings.Join(enumOf(f.Value), " ")))
			case takesFiles(f.Value):
				files = append(files, "--"+f.Name)
			default:
				others = append(others, "--"+f.Name)
			}
		}
		if len(files)+len(others)+len(choices) > 0 {
			b.WriteString("      case $previous in\n" + strings.Join(choices, ""))
			if len(files) > 0 {
				fmt.Fprintf(&b, "        %s) COMPREPLY=($(compgen -f -- \"$word\")); return ;;\n", strings.Join(files, "|"))
			}
			if len(others) > 0 {
				fmt.Fprintf(&b, "        %s) COMPREPLY=(); return ;;\n", strings.Join(others, "|"))
			}
			b.WriteString("      esac\n")
		}
		b.WriteString("      ;;\n")
	}
	fmt.Fprintf(&b, "    *) values=%q; flags='--help --version' ;;\n", strings.Join(commandNames(app), " "))
	b.WriteString(`  esac
  if [[ $word == -* ]]; then
    COMPREPLY=($(compgen -W "$flags" -- "$word"))
  elif [[ -n $values ]]; then
    COMPREPLY=($(compgen -W "$values" -- "$word"))
  elif [[ -n $files ]]; then
    COMPREPLY=($(compgen -f -- "$word"))
  fi
}
complete -o filenames -F _aside aside
`)
	return b.String()
}

// oneLine is the first sentence of a help text.
func oneLine(help string) string {
	if first, _, more := strings.Cut(help, ". "); more {
		help = first
	}
	return strings.TrimSuffix(help, ".")
}

func zshCompletion(app *kong.Application) string {
	// Inside single quotes, in the specifications of _arguments.
	quote := strings.NewReplacer(`'`, `'\''`, `[`, `\[`, `]`, `\]`, `:`, `\:`).Replace
	var b strings.Builder
	b.WriteString("#compdef aside\n# zsh completion of aside. Use: aside completion zsh > \"${fpath[1]}/_aside\"\n_aside() {\n  local line state\n  local -a commands=(\n")
	for _, command := range app.Children {
		fmt.Fprintf(&b, "    '%s:%s'\n", command.Name, quote(oneLine(command.Help)))
	}
	b.WriteString("  )\n  _arguments -C '--help[Show help.]' '--version[Print the version.]' '1: :->command' '*:: :->arguments'\n  case $state in\n    command) _describe command commands ;;\n    arguments)\n      case $line[1] in\n")
	for _, command := range app.Children {
		fmt.Fprintf(&b, "        %s)\n          _arguments \\\n", command.Name)
		for _, f := range flagsOf(command) {
			value := ""
			switch {
			case f.IsBool():
			case len(enumOf(f.Value)) > 0:
				value = ":value:(" + strings.Join(enumOf(f.Value), " ") + ")"
			case takesFiles(f.Value):
				value = ":file:_files"
			default:
				value = ":value: "
			}
			equals := ""
			if value != "" {
				equals = "="
			}
			fmt.Fprintf(&b, "            '--%s%s[%s]%s' \\\n", f.Name, equals, quote(oneLine(f.Help)), value)
			if f.Tag.Negatable != "" {
				fmt.Fprintf(&b, "            '--no-%s[Not\\: %s]' \\\n", f.Name, quote(oneLine(f.Help)))
			}
		}
		for i, p := range command.Positional {
			action := " "
			if values := enumOf(p); len(values) > 0 {
				action = "(" + strings.Join(values, " ") + ")"
			} else if takesFiles(p) {
				action = "_files -/"
			}
			fmt.Fprintf(&b, "            '%d:%s:%s' \\\n", i+1, p.Name, action)
		}
		b.WriteString("            && return\n          ;;\n")
	}
	b.WriteString("      esac\n      ;;\n  esac\n}\n_aside \"$@\"\n")
	return b.String()
}

func fishCompletion(app *kong.Application) string {
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace
	var b strings.Builder
	b.WriteString("# fish completion of aside. Use: aside completion fish > ~/.config/fish/completions/aside.fish\ncomplete -c aside -f\n" +
		"complete -c aside -n __fish_use_subcommand -l help -d 'Show help'\ncomplete -c aside -n __fish_use_subcommand -l version -d 'Print the version'\n")
	for _, command := range app.Children {
		fmt.Fprintf(&b, "complete -c aside -n __fish_use_subcommand -a %s -d '%s'\n", command.Name, quote(oneLine(command.Help)))
	}
	for _, command := range app.Children {
		in := "complete -c aside -n '__fish_seen_subcommand_from " + command.Name + "'"
		for _, f := range flagsOf(command) {
			value := " -x"
			switch {
			case f.IsBool():
				value = ""
			case len(enumOf(f.Value)) > 0:
				value = " -x -a '" + strings.Join(enumOf(f.Value), " ") + "'"
			case takesFiles(f.Value):
				value = " -r -F"
			}
			fmt.Fprintf(&b, "%s -l %s%s -d '%s'\n", in, f.Name, value, quote(oneLine(f.Help)))
			if f.Tag.Negatable != "" {
				fmt.Fprintf(&b, "%s -l no-%s -d 'Not: %s'\n", in, f.Name, quote(oneLine(f.Help)))
			}
		}
		for _, p := range command.Positional {
			if values := enumOf(p); len(values) > 0 {
				fmt.Fprintf(&b, "%s -a '%s'\n", in, strings.Join(values, " "))
			} else if takesFiles(p) {
				fmt.Fprintf(&b, "%s -F\n", in)
			}
		}
	}
	return b.String()
}

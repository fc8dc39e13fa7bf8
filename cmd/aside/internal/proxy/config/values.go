package config

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// value is where a setting is kept, and how it is read. The error of Set says only what it must be.
type value interface {
	Set(text string) error
	String() string // what Set takes
	Type() string   // for the reference
}

type text struct{ to *string }

func (v text) Set(s string) error { *v.to = s; return nil }
func (v text) String() string     { return *v.to }
func (text) Type() string         { return "text" }

// path is a text that names a file or a directory, as what says.
type path struct {
	text
	what string
}

func (p path) Type() string { return p.what }

type list struct{ to *[]string }

func (v list) Set(s string) error {
	var items []string
	for item := range strings.SplitSeq(s, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	*v.to = items
	return nil
}
func (v list) String() string { return strings.Join(*v.to, ",") }
func (list) Type() string     { return "list" }

// denied is a list of commands.
type denied struct{ list }

func (v denied) Set(s string) error {
	if err := v.list.Set(s); err != nil {
		return err
	}
	for _, item := range *v.to {
		name, sub, _ := strings.Cut(strings.TrimPrefix(item, "@"), "|")
		if item != "*" && (item == "none" && len(*v.to) > 1 || name == "" || strings.Trim(strings.ToLower(name+sub), "abcdefghijklmnopqrstuvwxyz0123456789._-") != "") {
			return errors.New("must be names such as flushall, config|set or @admin with commas between, or none, or *")
		}
	}
	return nil
}

type boolean struct{ to *bool }

func (v boolean) Set(s string) error {
	switch s {
	case "true":
		*v.to = true
	case "false":
		*v.to = false
	default:
		return errors.New("must be true or false")
	}
	return nil
}
func (v boolean) String() string { return strconv.FormatBool(*v.to) }
func (boolean) Type() string     { return "true or false" }

type number struct {
	to       *int
	min, max int
	unit     string
}

func (v number) Set(s string) error {
	n, err := strconv.Atoi(s)
	if err != nil || n < v.min || n > v.max {
		if v.max == math.MaxInt {
			return fmt.Errorf("must be a whole number of %s, %d or more", v.unit, v.min)
		}
		return fmt.Errorf("must be a whole number of %s from %d to %d", v.unit, v.min, v.max)
	}
	*v.to = n
	return nil
}
func (v number) String() string { return strconv.Itoa(*v.to) }
func (v number) Type() string   { return "number of " + v.unit }

type port struct{ to *Port }

func (v port) Set(s string) error {
	if s == "off" {
		*v.to = Off
		return nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > math.MaxUint16 {
		return errors.New("must be a port from 1 to 65535, 0 for any that is free, or off")
	}
	*v.to = Port(n)
	return nil
}

func (v port) String() string {
	if *v.to == Off {
		return "off"
	}
	return strconv.Itoa(int(*v.to))
}
func (port) Type() string { return "port" }

type duration struct {
	to       *time.Duration
	min, max time.Duration // beside 0, where zero is set
	zero     string        // what 0 means; "": it is not allowed
}

func (v duration) Set(s string) error {
	d, err := time.ParseDuration(s)
	if s == "0" {
		d, err = 0, nil
	}
	if err == nil && (d >= v.min && d <= v.max || d == 0 && v.zero != "") {
		*v.to = d
		return nil
	}
	also := ""
	if v.zero != "" {
		also = ", or 0 for " + v.zero
	}
	return fmt.Errorf("must be a duration with its unit, such as 250ms, 30s or 5m, from %v to %v%s", Short(v.min), Short(v.max), also)
}
func (v duration) String() string { return Short(*v.to) }
func (duration) Type() string     { return "duration" }

// Short is a duration as one writes it: 1h, not 1h0m0s.
func Short(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

type size struct {
	to       *int64
	min, max int64
}

var sizeUnits = []struct {
	name  string
	bytes int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}, {"", 1}}

func (v size) Set(s string) error {
	for _, u := range sizeUnits {
		digits, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err == nil && n >= 0 && n <= v.max/u.bytes && n*u.bytes >= v.min {
			*v.to = n * u.bytes
			return nil
		}
		break
	}
	return fmt.Errorf("must be a size in bytes, KiB, MiB or GiB, such as 64MiB, from %s to %s", formatSize(v.min), formatSize(v.max))
}
func (v size) String() string { return formatSize(*v.to) }
func (size) Type() string     { return "size" }

func formatSize(n int64) string {
	for _, u := range sizeUnits[:3] {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.name
		}
	}
	return strconv.FormatInt(n, 10)
}

type choice struct {
	to *string
	of []string
}

func (v choice) Set(s string) error {
	if !slices.Contains(v.of, s) {
		return fmt.Errorf("must be one of %s", strings.Join(v.of, ", "))
	}
	*v.to = s
	return nil
}
func (v choice) String() string { return *v.to }
func (v choice) Type() string   { return strings.Join(v.of, ", ") }

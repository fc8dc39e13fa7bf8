package main

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/redaside/aside/cmd/aside/internal/proxy/config"
)

// settingFlags are the flags of all settings. kong wants a struct with a field for each; it is made
// from the table of settings, so that there is no second one.
type settingFlags struct {
	all []config.Setting // those that have a flag, in the order of the fields
	to  reflect.Value    // *struct{ F0 *string; F1 *bool; … }
}

// target is what kong is to fill in.
func (f *settingFlags) target() any {
	if f.to.IsValid() {
		return f.to.Interface()
	}
	var fields []reflect.StructField
	for _, s := range config.Settings() {
		if s.Flag() == "" {
			continue
		}
		kind := reflect.TypeFor[*string]()
		placeholder := map[string]string{"file": "FILE", "directory": "DIR", "port": "PORT", "size": "SIZE", "duration": "DURATION", "list": "HOST:PORT,…", "text": "TEXT"}[s.Type]
		switch {
		case s.Bool:
			kind = reflect.TypeFor[*bool]()
		case s.Default != "":
			placeholder = s.Default
		}
		tag := fmt.Sprintf("name:%s help:%s group:%s placeholder:%s", strconv.Quote(s.Flag()), strconv.Quote(s.Help+" ["+s.Env()+"]"),
			strconv.Quote(s.Group), strconv.Quote(placeholder))
		if s.Bool {
			tag += ` negatable:""`
		}
		fields = append(fields, reflect.StructField{Name: "F" + strconv.Itoa(len(fields)), Type: kind, Tag: reflect.StructTag(tag)})
		f.all = append(f.all, s)
	}
	f.to = reflect.New(reflect.StructOf(fields))
	return f.to.Interface()
}

// values are those that were given, by Setting.Name.
func (f *settingFlags) values() map[string]string {
	given := make(map[string]string)
	for i, s := range f.all {
		switch v := f.to.Elem().Field(i).Interface().(type) {
		case *string:
			if v != nil {
				given[s.Name] = *v
			}
		case *bool:
			if v != nil {
				given[s.Name] = strconv.FormatBool(*v)
			}
		}
	}
	return given
}

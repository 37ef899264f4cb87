package mwa

import (
	"reflect"
	"regexp"
	"strings"
)

// flag is an option as the command line has it. A word after it may be its value; a sentence's full stop or comma is not of it.
var flag = regexp.MustCompile(`--([a-z][a-z0-9-]*[a-z0-9])(?: ([^\s,;:?()]*[^\s,;:?().]))?`)

// command is where a whole command line begins.
var command = regexp.MustCompile(`\bmwa (?:merge|finish|search|weights|inspect|convert|moments|verify|aggregate|recover|apply|extract|masks|devices|man) `)

var digits = regexp.MustCompile(`^[0-9.]+$`)

// fields are the fields of Options, by their flags.
var fields = func() map[string]reflect.StructField {
	all := map[string]reflect.StructField{}
	for _, field := range reflect.VisibleFields(reflect.TypeFor[Options]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		all[strings.ReplaceAll(name, "_", "-")] = field
	}
	return all
}()

// spoken is a text of the core, whose words are those of the command line, in words of this package: `--drop-bad` as `DropBad: true`,
// `--metric loss` as `Metric: "loss"`. Whole command lines stay as they are.
func spoken(text string) string {
	end := len(text)
	if at := command.FindStringIndex(text); at != nil {
		end = at[0]
	}
	return flag.ReplaceAllStringFunc(text[:end], option) + text[end:]
}

func option(text string) string {
	parts := flag.FindStringSubmatch(text)
	field, isKnown := fields[parts[1]]
	if !isKnown {
		return text
	}
	word, rest := parts[2], strings.TrimPrefix(text, "--"+parts[1])
	isPlaceholder := word == strings.ToUpper(word) && !digits.MatchString(word)
	switch kind := field.Type.Kind(); {
	case kind == reflect.Bool:
		return field.Name + ": true" + rest
	case word == "":
		return field.Name
	case isPlaceholder || kind == reflect.Int && digits.MatchString(word):
		return field.Name + ": " + word
	case field.Type == reflect.TypeFor[*int]() && digits.MatchString(word):
		return field.Name + ": mwa.Whole(" + word + ")"
	case field.Type == reflect.TypeFor[*float64]() && digits.MatchString(word):
		return field.Name + ": mwa.Number(" + word + ")"
	case kind == reflect.String:
		return field.Name + `: "` + word + `"`
	default:
		return field.Name + rest
	}
}

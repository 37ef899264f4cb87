package mwa

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Verified is what [Verify] found.
type Verified struct {
	Outputs    []Checked // the merged files that the report names
	Companions []Checked // what lies beside them and decides what they do
	Others     []Checked // files that the merge did not write, but for those in hidden folders
	Inputs     []Checked // the files that they were made of
	// Remade is whether merging again gave the same bytes; nil when inputs are gone or changed, so that it was not tried.
	Remade *bool
}

// Checked is one file.
type Checked struct {
	Path  string
	State State
}

// State is what a file is beside what the report says of it.
type State string

// The states of a file.
const (
	Same    State = "same"
	Changed State = "changed"
	Gone    State = "missing"
	Foreign State = "foreign" // not in the report, though a program that loads models may read it
	Beside  State = "beside"  // not in the report, and of no kind that is loaded with a model
)

// IsGood is whether everything is there, unchanged, merges to the same bytes, and nothing else is there that is loaded.
func (v *Verified) IsGood() bool {
	for _, files := range [][]Checked{v.Outputs, v.Companions, v.Others, v.Inputs} {
		for _, file := range files {
			if file.State != Same && file.State != Beside {
				return false
			}
		}
	}
	return v.Remade != nil && *v.Remade
}

// Verify merges again what the report in a merged folder says, and compares bytes and hashes. A file that differs is a
// finding and no error. Inputs are looked for on this machine's disk, where the report says. It writes nothing. Of the options only Threads and Progress count. What only the program makes (a conversion, a model
// with its adapter folded in, a step of a server's optimizer and the like) is refused with an error of kind usage.
func Verify(ctx context.Context, folder string, options Options) (*Verified, error) {
	if err := checkAsked(ctx, Disk(), []string{folder}); err != nil {
		return nil, err
	}
	v := verification{ctx: ctx, folder: folder}
	if err := v.read(); err != nil {
		return nil, err
	}
	what := request{Verb: "verify", Report: v.text, Paths: []string{}}
	made := v.madeElsewhere()
	if made == "" {
		// names of what only the program makes need not lie in the folder
		if err := v.checkNames(); err != nil {
			return nil, err
		}
	}
	if err := v.isKnown(what); err != nil {
		return nil, err
	}
	if made != "" {
		return nil, &Error{Kind: KindUsage, File: filepath.Join(folder, reportName), Detail: made,
			Help: "verify it with the program: mwa verify " + folder}
	}
	found := new(Verified)
	var err error
	if found.Outputs, err = v.checkHere(v.report.Outputs); err != nil {
		return nil, err
	}
	if found.Companions, err = v.checkHere(v.report.Companions); err != nil {
		return nil, err
	}
	paths, isThere := []string{}, true
	for _, input := range v.report.Inputs {
		place := filepath.Join(folder, filepath.FromSlash(input.Path))
		paths = append(paths, place)
		if found, err := os.Stat(place); err == nil && found.Mode().IsRegular() {
			place = filepath.Dir(place)
		}
		for i := range input.Files {
			base := filepath.Join(place, v.report.Adapter)
			if filepath.IsAbs(filepath.FromSlash(input.Files[i].Name)) {
				base = "" // moments of another place altogether
			}
			checked, err := v.check(base, &input.Files[i])
			if err != nil {
				return nil, err
			}
			isThere = isThere && checked.State == Same
			found.Inputs = append(found.Inputs, checked)
		}
	}
	others, err := foreign(folder, &v.report)
	if err != nil {
		return nil, err
	}
	if found.Others, err = v.others(others); err != nil || !isThere {
		return found, err
	}
	for _, path := range paths {
		path, err := told(path)
		if err != nil {
			return nil, err
		}
		what.Paths = append(what.Paths, path)
	}
	return found, v.remake(what, options, found)
}

// verification is one under way.
type verification struct {
	ctx    context.Context
	folder string
	text   json.RawMessage
	report Report
}

// read reads the report.
func (v *verification) read() error {
	path := filepath.Join(v.folder, reportName)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || isNoFolder(err) {
		detail := "holds no " + reportName
		if found, err := (disk{}).Stat(v.folder); err == nil && found.Type == Missing {
			detail = "does not exist"
		}
		return &Error{Kind: KindInput, File: v.folder, Detail: detail, Help: "verify takes a folder that mwa wrote, with its report", cause: err}
	}
	if err != nil {
		return refused("cannot read it", path, err)
	}
	if err := json.Unmarshal(text, &v.report); err != nil {
		return v.damaged("is not a merge report: "+err.Error(), err)
	}
	v.text = text
	return nil
}

func (v *verification) damaged(detail string, cause error) error {
	return &Error{Kind: KindInput, File: filepath.Join(v.folder, reportName), Detail: detail,
		Help: "the report was damaged or edited: merge again", cause: cause}
}

// checkNames refuses names that lead elsewhere: other files would be checked than those that are loaded.
func (v *verification) checkNames() error {
	names := []string{}
	for i := range v.report.Inputs {
		input := &v.report.Inputs[i]
		for j := range input.Files {
			if !v.report.isApart(input, j) {
				names = append(names, input.Files[j].Name)
			}
		}
	}
	for _, file := range append(append([]HashedFile{}, v.report.Outputs...), v.report.Companions...) {
		names = append(names, file.Name)
	}
	if v.report.Adapter != "" {
		names = append(names, v.report.Adapter)
	}
	for _, name := range names {
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return v.damaged("names `"+name+"`, which is not a file in the folder", nil)
		}
	}
	return nil
}

// remade is all that a report says of what a session makes again, by the part of the report. What says more was made by something else, or by a
// later version: to compare it with what a session makes would call it changed.
var remade = map[string][]string{
	"": {"mwa", "selected", "weighting", "ranking", "groups", "space", "rank", "residual", "quantised", "grafted", "dtype", "shard_size",
		"adapter", "round", "inputs", "outputs", "companions", "advice", "notes"},
	"weighting": {"scheme", "method", "penalty", "metric", "goal", "outliers", "scale", "density", "density_per", "subspace", "settings"},
	"round":     {"rule", "discount", "period", "rate", "momentum", "clip", "clients", "samples", "dropped"},
}

// makers are the commands of the program that say something else.
var makers = map[string]string{
	"format":         "mwa merge --format",
	"folded":         "mwa apply",
	"extracted":      "mwa extract",
	"recovered":      "mwa recover",
	"round.server":   "mwa aggregate --server",
	"round.partials": "mwa aggregate with exact sums (--partial)",
}

// madeElsewhere says what no session makes again; empty if there is nothing of that in the report.
func (v *verification) madeElsewhere() string {
	var whole map[string]json.RawMessage
	if json.Unmarshal(v.text, &whole) != nil {
		return "" // the core says what is wrong with it
	}
	odd := unknown("", whole)
	for _, part := range []string{"weighting", "round"} {
		var inner map[string]json.RawMessage
		if json.Unmarshal(whole[part], &inner) == nil {
			odd = append(odd, unknown(part, inner)...)
		}
	}
	slices.Sort(odd)
	for _, name := range odd {
		if maker, ok := makers[name]; ok {
			return "was made by " + maker + ", which Verify does not make again"
		}
	}
	if len(odd) > 0 {
		return "says `" + odd[0] + "`, which Verify does not know how to make again"
	}
	for _, input := range v.report.Inputs {
		if strings.Contains(input.Path, "://") {
			return "is of inputs in a store, such as " + input.Path + ", which Verify does not read"
		}
	}
	return ""
}

// unknown are the members of a part of a report that are not of what a session makes again.
func unknown(part string, members map[string]json.RawMessage) []string {
	var odd []string
	for name, value := range members {
		if string(value) != "null" && !slices.Contains(remade[part], name) {
			odd = append(odd, strings.TrimPrefix(part+"."+name, "."))
		}
	}
	return odd
}

// isApart is whether a file of an input may have second moments, which may lie anywhere: where the method weighs by them, any but the
// first, which has weights. Nobody loads it from the merged folder.
func (r *Report) isApart(input *Input, file int) bool {
	return file > 0 && input.Role == "" && (r.Weighting.Method == "ota" || r.Weighting.Method == "ffg")
}

// isKnown asks the core whether it knows such reports: those of a later version it may not.
func (v *verification) isKnown(what request) error {
	s, err := open(what)
	if err == nil {
		s.close()
		return nil
	}
	var own *Error
	if !errors.As(err, &own) || own.Kind != KindInput {
		return nil // what else is wrong shows as it is used
	}
	own.File = filepath.Join(v.folder, reportName)
	return own
}

// checkHere compares files in the merged folder, none of which may be a link out of it.
func (v *verification) checkHere(files []HashedFile) ([]Checked, error) {
	var all []Checked
	for i := range files {
		file := &files[i]
		path := filepath.Join(v.folder, filepath.FromSlash(file.Name))
		place, err := placeOf(path)
		if err != nil {
			return nil, err
		}
		folder, err := placeOf(filepath.Dir(path))
		if err != nil {
			return nil, err
		}
		if place != "" && !within(filepath.FromSlash(folder), filepath.FromSlash(place)) {
			return nil, &Error{Kind: KindInput, File: path, Detail: "is a link out of the folder, to " + place,
				Help: "verify a folder that holds the files themselves"}
		}
		checked, err := v.check(v.folder, file)
		if err != nil {
			return nil, err
		}
		all = append(all, checked)
	}
	return all, nil
}

// check compares one file with what the report says of it.
func (v *verification) check(base string, file *HashedFile) (Checked, error) {
	path := filepath.Join(base, filepath.FromSlash(file.Name))
	found, err := disk{}.Stat(path)
	switch {
	case err != nil:
		return Checked{}, refused("cannot look at it", path, err)
	case found.Type == Missing:
		return Checked{path, Gone}, nil
	case found.Type != RegularFile || found.Size != file.Bytes:
		return Checked{path, Changed}, nil
	}
	opened, err := disk{}.Open(path)
	if err != nil {
		return Checked{}, err
	}
	defer opened.Close()
	isSame, err := file.is(v.ctx, opened, path)
	if err != nil {
		return Checked{}, err
	}
	if !isSame {
		return Checked{path, Changed}, nil
	}
	return Checked{path, Same}, nil
}

// others are the files that the merge did not write, but for those in hidden folders; the core knows which are loaded.
func (v *verification) others(names []string) ([]Checked, error) {
	core, err := newInstance()
	if err != nil {
		return nil, err
	}
	defer core.close()
	var all []Checked
	for _, name := range names {
		if strings.Contains("/"+path.Dir(name), "/.") && path.Dir(name) != "." {
			continue
		}
		address, err := core.passBytes([]byte(name))
		if err != nil {
			return nil, err
		}
		isLoaded, err := core.call("mwa_is_loaded", address)
		if err != nil {
			return nil, err
		}
		state := Beside
		if isLoaded == 1 {
			state = Foreign
		}
		all = append(all, Checked{filepath.Join(v.folder, filepath.FromSlash(name)), state})
	}
	return all, nil
}

// remake merges again, keeping nothing but the hashes.
func (v *verification) remake(what request, options Options, found *Verified) error {
	how := Options{Threads: options.Threads, Progress: options.Progress}
	again, err := mergeWith(v.ctx, watch(disk{}), what, how, func(*state) (Sink, error) { return nowhere{}, nil })
	if err != nil {
		return err
	}
	isSame := sameFiles(again.Outputs, v.report.Outputs) &&
		(len(v.report.Companions) == 0 || sameFiles(again.Companions, v.report.Companions))
	found.Remade = &isSame
	return nil
}

func sameFiles(a, b []HashedFile) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Name != b[i].Name || a[i].BLAKE3 != b[i].BLAKE3 {
			return false
		}
	}
	return true
}

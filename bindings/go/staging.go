package mwa

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What is written of every merge in the end.
const (
	cardName   = "README.md"
	reportName = "mwa-report.json"
)

// staging is an output folder in the making: a hidden folder beside its place, put there whole or not at all.
type staging struct {
	target string   // where it will be, links resolved
	shown  string   // the same as the user called it
	folder string   // where it is for now
	made   []string // folders that had to be made around it, outermost first
	force  bool
}

// checkTarget refuses an output that exists, unless it is empty or, with force, an earlier merge and nothing else.
func checkTarget(target string, force bool) error {
	refuse := func(detail, help string) error {
		return &Error{Kind: KindOutput, File: target, Detail: detail, Help: help}
	}
	if target == "" {
		return &Error{Kind: KindUsage, Detail: "the output is not the path of a folder"}
	}
	entries, err := os.ReadDir(target)
	if err != nil {
		found, missing := os.Lstat(target)
		switch {
		case errors.Is(missing, fs.ErrNotExist):
			return nil
		case missing == nil && !found.IsDir():
			return refuse("exists and is not a folder", "choose another output folder")
		}
		return refused("cannot list it", target, err)
	}
	if len(entries) == 0 {
		return nil
	}
	if !force {
		return refuse("exists already", "choose another output folder, or replace an earlier merge with Force")
	}
	return checkEarlier(target)
}

// checkEarlier refuses a folder that is not an earlier merge, or holds anything else.
func checkEarlier(target string) error {
	refuse := func(detail, help string) error {
		return &Error{Kind: KindOutput, File: target, Detail: detail, Help: help}
	}
	noMerge := func(why string) error {
		return refuse("is not an earlier merge ("+why+"); it is not replaced, even with Force",
			"choose another output folder, or remove this one yourself")
	}
	text, err := os.ReadFile(filepath.Join(target, reportName))
	if err != nil {
		return noMerge("it has no " + reportName)
	}
	var report Report
	if json.Unmarshal(text, &report) != nil || report.MWA == "" {
		return noMerge("its " + reportName + " is not the report of a merge")
	}
	others, err := foreign(target, &report)
	if err != nil || len(others) == 0 {
		return err
	}
	if len(others) > 5 {
		others = append(others[:5], "…")
	}
	return refuse("holds what the earlier merge did not write: "+strings.Join(others, ", ")+"; it is not replaced, even with Force",
		"move that elsewhere, or choose another output folder")
}

// wrote is whether a file of that name is one that the merge of the report wrote.
func (r *Report) wrote(name string) bool {
	is := func(file HashedFile) bool { return file.Name == name }
	return name == cardName || name == reportName || slices.ContainsFunc(r.Outputs, is) || slices.ContainsFunc(r.Companions, is)
}

// foreign is the names of all files in a merged folder that the merge did not write.
func foreign(folder string, report *Report) ([]string, error) {
	var others []string
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inner, err := filepath.Rel(folder, path)
		if name := filepath.ToSlash(inner); err == nil && !report.wrote(name) {
			others = append(others, name)
		}
		return err
	})
	if err != nil {
		return nil, refused("cannot list it", folder, err)
	}
	return others, nil
}

// stage begins the folder beside its place, which must not be, lie in, or hold one of the inputs or a file read for them.
func stage(target string, force bool, inputs, read []string) (*staging, error) {
	if err := checkTarget(target, force); err != nil {
		return nil, err
	}
	absolute, err := filepath.Abs(target)
	if err != nil {
		return nil, refused("cannot write it", target, err)
	}
	// what exists is replaced where it is, also behind a link
	if place, err := placeOf(target); err != nil {
		return nil, err
	} else if place != "" {
		absolute = filepath.FromSlash(place)
	}
	s := &staging{shown: target, force: force}
	if err := s.begin(absolute, inputs, read); err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

func (s *staging) begin(absolute string, inputs, read []string) error {
	parent := filepath.Dir(absolute)
	if parent == absolute {
		return &Error{Kind: KindOutput, File: s.shown, Detail: "cannot be the name of a folder"}
	}
	if err := s.makeAll(parent); err != nil {
		return refused("cannot write it", parent, err)
	}
	parent, err := filepath.EvalSymlinks(parent)
	if err != nil {
		return refused("cannot write it", s.shown, err)
	}
	s.target = filepath.Join(parent, filepath.Base(absolute))
	overwrites := func(input string) error {
		return &Error{Kind: KindOutput, File: s.shown, Detail: "would overwrite the input " + input,
			Help: "choose an output folder outside the inputs"}
	}
	for _, input := range inputs {
		place, err := placeOf(input)
		if err != nil {
			return err
		}
		if place = filepath.FromSlash(place); within(place, s.target) || within(s.target, place) {
			return overwrites(input)
		}
	}
	for _, file := range read {
		place, err := placeOf(file)
		if err != nil {
			return err
		}
		if within(s.target, filepath.FromSlash(place)) {
			return overwrites(file)
		}
	}
	var name [4]byte
	_, _ = rand.Read(name[:]) // it never fails
	folder := filepath.Join(parent, ".mwa-"+hex.EncodeToString(name[:]))
	if err := os.Mkdir(folder, 0o777); err != nil {
		return refused("cannot write it", s.shown, err)
	}
	s.folder = folder
	return nil
}

// makeAll makes a folder with those above it, and remembers which were missing.
func (s *staging) makeAll(folder string) error {
	var missing []string
	for at := folder; ; at = filepath.Dir(at) {
		if _, err := os.Stat(at); err == nil || !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			break
		}
		missing = append(missing, at)
	}
	slices.Reverse(missing)
	for _, one := range missing {
		if err := os.Mkdir(one, 0o777); errors.Is(err, fs.ErrExist) {
			continue // someone else was quicker, and it is theirs
		} else if err != nil {
			return err
		}
		s.made = append(s.made, one)
	}
	return nil
}

// within is whether a path lies in a folder, or is it.
func within(folder, path string) bool {
	return folder != "" && path != "" && (path == folder || strings.HasPrefix(path, strings.TrimSuffix(folder, string(filepath.Separator))+string(filepath.Separator)))
}

// Create begins a file.
func (s *staging) Create(name string, size int64) (io.WriteCloser, error) {
	shown := filepath.Join(s.shown, filepath.FromSlash(name))
	if !filepath.IsLocal(filepath.FromSlash(name)) {
		return nil, &Error{Kind: KindOutput, File: s.shown, Detail: "`" + name + "` is not the name of a file in the folder"}
	}
	path := filepath.Join(s.folder, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		return nil, refused("cannot write it", shown, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err == nil {
		err = file.Truncate(size)
	}
	if err != nil {
		if file != nil {
			_ = file.Close() // it goes with the folder
		}
		return nil, refused("cannot write it", shown, err)
	}
	return stagedFile{file}, nil
}

// Remove takes a file back.
func (s *staging) Remove(name string) error {
	return os.Remove(filepath.Join(s.folder, filepath.FromSlash(name)))
}

// stagedFile is on the disk when it is closed.
type stagedFile struct{ *os.File }

func (f stagedFile) Close() error { return errors.Join(f.Sync(), f.File.Close()) }

// way leads from the folder to a path, so that a report stays true when both are moved together.
func (s *staging) way(path string) (string, error) {
	place, err := placeOf(path)
	if err != nil {
		return "", err
	}
	way, err := filepath.Rel(s.target, filepath.FromSlash(place))
	if err != nil {
		return place, nil // on another drive
	}
	return filepath.ToSlash(way), nil
}

// publish puts the folder in its place; the earlier merge that it replaces, if any, is removed last.
func (s *staging) publish() error {
	write := func(err error) error { return refused("cannot write it", s.shown, err) }
	err := filepath.WalkDir(s.folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			err = syncFolder(path)
		}
		return err
	})
	if err != nil {
		return write(err)
	}
	// it may have come while the merge ran
	if err := checkTarget(s.shown, s.force); err != nil {
		return err
	}
	old := ""
	if entries, err := os.ReadDir(s.target); err == nil && len(entries) > 0 {
		old = s.folder + "-old"
		if err := os.Rename(s.target, old); err != nil {
			return write(err)
		}
	} else if err == nil {
		if err := os.Remove(s.target); err != nil {
			return write(err)
		}
	}
	// a folder is never renamed onto a file, nor onto a folder
	if err := os.Rename(s.folder, s.target); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, s.target))
		}
		return write(err)
	}
	s.folder, s.made = "", nil
	if old != "" {
		if err := os.RemoveAll(old); err != nil {
			return refused("the merge is in its place, but not all of the earlier one could be removed", old, err)
		}
	}
	if err := syncFolder(filepath.Dir(s.target)); err != nil {
		return write(err)
	}
	return nil
}

// abandon takes away what was not published.
func (s *staging) abandon() {
	if s.folder != "" {
		_ = os.RemoveAll(s.folder) // what it leaves is hidden, and the error that matters is another
	}
	for _, one := range slices.Backward(s.made) {
		// fails for a folder in which others have put something meanwhile
		if os.Remove(one) != nil {
			break
		}
	}
}

// syncFolder makes what was written into a folder durable, where the system has that.
func syncFolder(folder string) error {
	if atOnce == 0 {
		return nil
	}
	file, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}

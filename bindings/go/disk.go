package mwa

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"unicode/utf8"
)

// Disk is this machine's files as a [Source].
func Disk() Source { return disk{} }

type disk struct{}

// here is a path as the system knows it.
func here(name string) string {
	if name == "" {
		return "."
	}
	return filepath.FromSlash(name)
}

// told is a path as the core knows it.
func told(name string) (string, error) {
	if !utf8.ValidString(name) {
		return "", &Error{Kind: KindInput, File: name, Detail: "has a name that is not UTF-8",
			Help: "rename it, or give it through a link with another name"}
	}
	return filepath.ToSlash(name), nil
}

func (disk) Stat(name string) (Info, error) {
	found, err := os.Stat(here(name))
	return infoOf(found, err)
}

func (disk) List(name string) ([]string, error) {
	entries, err := os.ReadDir(here(name))
	if err != nil {
		return nil, refused("cannot list it", name, err)
	}
	return namesOf(entries), nil
}

func (disk) Place(name string) (string, error) {
	place, err := filepath.EvalSymlinks(here(name))
	if err == nil {
		place, err = filepath.Abs(place)
	}
	if err != nil {
		return "", refused("cannot open it", name, err)
	}
	return filepath.ToSlash(place), nil
}

func (disk) Open(name string) (Reader, error) {
	// a pipe or a device would be waited for
	file, err := os.OpenFile(here(name), os.O_RDONLY|atOnce, 0)
	if err != nil {
		return nil, refused("cannot open it", name, err)
	}
	if found, err := file.Stat(); err != nil || !found.Mode().IsRegular() {
		_ = file.Close() // nothing was read
		return nil, &Error{Kind: KindInput, File: name, Detail: "is not a regular file", cause: err}
	}
	return file, nil
}

// isNoFolder is whether a part of the path is a file, so that nothing can be below it.
func isNoFolder(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// placeOf is where a path leads, links followed; empty if there is nothing.
func placeOf(name string) (string, error) {
	place, err := disk{}.Place(name)
	if err != nil && (errors.Is(err, fs.ErrNotExist) || isNoFolder(err)) {
		return "", nil
	}
	return place, err
}

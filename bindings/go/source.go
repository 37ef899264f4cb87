package mwa

import (
	"errors"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
	"sync"
	"time"
)

// Source is where a run lies: what lies where, and byte ranges. Paths are those given to the merge and what was found in
// them; names in paths are parted by "/". Many goroutines use it at once. A call under way is waited for when the context of the
// merge ends: let what may hang end by the same context.
type Source interface {
	// Stat says what a path is. That nothing is there is no error.
	Stat(path string) (Info, error)
	// List gives the names of all that lies in a folder, in any order.
	List(path string) ([]string, error)
	// Place is the same text for two paths that lead to one place: the path with its links resolved.
	Place(path string) (string, error)
	// Open opens a file to be read in ranges, by many goroutines at once.
	Open(path string) (Reader, error)
}

// Reader is an open file of a [Source].
type Reader interface {
	io.ReaderAt
	io.Closer
}

// Info is what a path is.
type Info struct {
	Type     Type
	Size     int64     // of a file, in bytes
	Modified time.Time // of a file, if known: a file that changes while it is read is an error
}

// Type is what a path leads to.
type Type uint8

// What a path can lead to.
const (
	Missing     Type = iota // nothing, or a link that leads to nothing
	RegularFile             // a regular file
	Directory               // a folder
	Other                   // a pipe, a device or the like
)

// FS is a [Source] out of a file system such as an archive or an [embed.FS]. Files that have neither ReadAt nor Seek are read
// from their beginning each time that a merge goes back in them, so unpack large archives first.
func FS(files fs.FS) Source { return fileSystem{files} }

type fileSystem struct{ files fs.FS }

// named is a path as file systems call it, and whether they can have it.
func named(name string) (string, bool) {
	name = path.Clean(name)
	return name, fs.ValidPath(name)
}

func (f fileSystem) Stat(name string) (Info, error) {
	name, ok := named(name)
	if !ok {
		return Info{}, nil
	}
	found, err := fs.Stat(f.files, name)
	return infoOf(found, err)
}

func (f fileSystem) List(name string) ([]string, error) {
	name, _ = named(name)
	entries, err := fs.ReadDir(f.files, name)
	if err != nil {
		return nil, refused("cannot list it", name, err)
	}
	return namesOf(entries), nil
}

func (f fileSystem) Place(name string) (string, error) { return path.Clean(name), nil }

func (f fileSystem) Open(name string) (Reader, error) {
	clean, _ := named(name)
	file, err := f.files.Open(clean)
	if err != nil {
		return nil, refused("cannot open it", name, err)
	}
	if reader, ok := file.(Reader); ok {
		return reader, nil
	}
	return &rewound{files: f.files, name: clean, file: file}, nil
}

// rewound reads a file that can only be read from its beginning to its end.
type rewound struct {
	mutex sync.Mutex
	files fs.FS
	name  string
	file  fs.File
	at    int64
}

func (r *rewound) ReadAt(to []byte, offset int64) (int, error) {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	if seeker, ok := r.file.(io.Seeker); ok {
		if _, err := seeker.Seek(offset, io.SeekStart); err != nil {
			return 0, err
		}
		return io.ReadFull(r.file, to)
	}
	if offset < r.at {
		again, err := r.files.Open(r.name)
		if err != nil {
			return 0, err
		}
		_ = r.file.Close() // it was only read
		r.file, r.at = again, 0
	}
	skipped, err := io.CopyN(io.Discard, r.file, offset-r.at)
	r.at += skipped
	if err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.file, to)
	r.at += int64(n)
	return n, err
}

func (r *rewound) Close() error {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return r.file.Close()
}

// Sized is bytes that can be read in ranges, such as [bytes.Reader], [io.SectionReader] and whatever reads an object store.
type Sized interface {
	io.ReaderAt
	Size() int64
}

// Files is a [Source] out of readers by path, such as "run/checkpoint-10/adapter_model.safetensors"; "./run" is "run" here too.
type Files map[string]Sized

// at is the file at a path.
func (f Files) at(name string) (Sized, bool) {
	if file, ok := f[name]; ok {
		return file, true
	}
	name = path.Clean(name)
	for other, file := range f {
		if path.Clean(other) == name {
			return file, true
		}
	}
	return nil, false
}

// Stat says what a path is: a folder where a file lies in it.
func (f Files) Stat(name string) (Info, error) {
	if file, ok := f.at(name); ok {
		return Info{Type: RegularFile, Size: file.Size()}, nil
	}
	names, err := f.List(name)
	if err != nil || len(names) == 0 {
		return Info{}, err
	}
	return Info{Type: Directory}, nil
}

// List gives the names in a folder.
func (f Files) List(name string) ([]string, error) {
	inside := ""
	if name = path.Clean(name); name != "." {
		inside = strings.TrimSuffix(name, "/") + "/"
	}
	found := map[string]bool{}
	for other := range f {
		if rest, ok := strings.CutPrefix(path.Clean(other), inside); ok {
			first, _, _ := strings.Cut(rest, "/")
			found[first] = true
		}
	}
	names := make([]string, 0, len(found))
	for one := range found {
		names = append(names, one)
	}
	sort.Strings(names)
	return names, nil
}

// Place is the path itself, cleaned.
func (f Files) Place(name string) (string, error) { return path.Clean(name), nil }

// Open opens a file.
func (f Files) Open(name string) (Reader, error) {
	file, ok := f.at(name)
	if !ok {
		return nil, refused("cannot open it", name, fs.ErrNotExist)
	}
	return kept{file}, nil
}

// kept is a reader that is not ours to close.
type kept struct{ io.ReaderAt }

func (kept) Close() error { return nil }

// infoOf is what a file system says of a path.
func infoOf(found fs.FileInfo, err error) (Info, error) {
	switch {
	case errors.Is(err, fs.ErrNotExist) || isNoFolder(err):
		return Info{}, nil
	case err != nil:
		return Info{}, err
	case found.IsDir():
		return Info{Type: Directory}, nil
	case found.Mode().IsRegular():
		return Info{Type: RegularFile, Size: found.Size(), Modified: found.ModTime()}, nil
	default:
		return Info{Type: Other}, nil
	}
}

func namesOf(entries []fs.DirEntry) []string {
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names
}

// readAtMost fills a buffer from a place in a file, as far as the file goes.
func readAtMost(file io.ReaderAt, to []byte, offset int64) (int, error) {
	n, err := io.ReadFull(io.NewSectionReader(file, offset, int64(len(to))), to)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}

// readWhole fills a buffer from a place in a file that was longer when it was looked at.
func readWhole(file io.ReaderAt, to []byte, offset int64, name string) error {
	n, err := readAtMost(file, to, offset)
	if err != nil {
		return refused("cannot read it", name, err)
	}
	if n < len(to) {
		return changed(name)
	}
	return nil
}

func changed(name string) *Error {
	return &Error{Kind: KindIO, File: name, Detail: "changed while it was read",
		Help: "merge again when nothing writes to it any more"}
}

// watched remembers what the files of a source were when they were first looked at, and why it refused which.
type watched struct {
	Source
	mutex   sync.Mutex
	seen    map[string]Info
	refused map[string]error
}

func watch(source Source) *watched {
	return &watched{Source: source, seen: map[string]Info{}, refused: map[string]error{}}
}

// refuse notes why a question about a path has no answer: the core hears it as a text.
func (w *watched) refuse(name string, why error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.refused[name] = why
}

// explain hangs what was behind a refusal on the error that the core made of it.
func (w *watched) explain(err error) {
	var own *Error
	if !errors.As(err, &own) || own.cause != nil {
		return
	}
	w.mutex.Lock()
	defer w.mutex.Unlock()
	why := w.refused[own.File]
	if isMissing := why == fs.ErrNotExist; own.Kind == KindIO && !isMissing || own.Kind == KindInput && isMissing {
		own.cause = why
	}
}

func (w *watched) Stat(name string) (Info, error) {
	found, err := w.Source.Stat(name)
	if err == nil && found.Type == RegularFile {
		w.mutex.Lock()
		defer w.mutex.Unlock()
		if first, ok := w.seen[name]; ok {
			return first, nil
		}
		w.seen[name] = found
	}
	return found, err
}

// check fails if a file is no longer what it was.
func (w *watched) check(name string) error {
	now, err := w.Source.Stat(name)
	if err != nil {
		return refused("vanished while it was read", name, err)
	}
	w.mutex.Lock()
	first, ok := w.seen[name]
	w.mutex.Unlock()
	if ok && (now.Type != RegularFile || now.Size != first.Size || !now.Modified.Equal(first.Modified)) {
		return changed(name)
	}
	return nil
}

// files are the paths of all files that were looked at.
func (w *watched) files() []string {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	names := make([]string, 0, len(w.seen))
	for name := range w.seen {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// mostOpen is how many inputs are kept open; those beyond it are opened for each read.
const mostOpen = 200

// inputs are the files with weights, by number, opened as they are needed.
type inputs struct {
	source Source
	paths  []string
	mutex  sync.Mutex
	open   map[int]Reader
}

func newInputs(source Source, paths []string) *inputs {
	return &inputs{source: source, paths: paths, open: map[int]Reader{}}
}

// with calls back with an open file.
func (i *inputs) with(file int, use func(Reader) error) error {
	reader, isKept, err := i.reader(file)
	if err != nil {
		return refused("cannot open it", i.paths[file], err)
	}
	if !isKept {
		defer reader.Close()
	}
	return use(reader)
}

// reader is an open file, and whether it stays open.
func (i *inputs) reader(file int) (Reader, bool, error) {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	if reader, ok := i.open[file]; ok {
		return reader, true, nil
	}
	reader, err := i.source.Open(i.paths[file])
	isKept := err == nil && len(i.open) < mostOpen
	if isKept {
		i.open[file] = reader
	}
	return reader, isKept, err
}

// fill reads ranges one after the other into a buffer.
func (i *inputs) fill(reads []span, to []byte) error {
	for _, read := range reads {
		part := to[:read.End-read.Start]
		to = to[len(part):]
		err := i.with(read.File, func(file Reader) error {
			return readWhole(file, part, read.Start, i.paths[read.File])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func (i *inputs) close() {
	i.mutex.Lock()
	defer i.mutex.Unlock()
	for _, reader := range i.open {
		_ = reader.Close() // it was only read
	}
	i.open = nil
}

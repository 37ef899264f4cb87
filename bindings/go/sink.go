package mwa

import (
	"io"
	"sort"
	"sync"
)

// Sink is where the files of a merge go. A file that also is an [io.WriterAt] gets its pieces as they are made, by many goroutines;
// any other gets them in order. Where a merge fails, nothing is to be done with what was written.
type Sink interface {
	// Create begins a file of that many bytes; the name has "/" in it where it lies in a folder.
	Create(name string, size int64) (io.WriteCloser, error)
}

// Remover is a [Sink] that can take a file back: after a failure, or because the merge begins again without a bad checkpoint
// (Options.DropBad).
type Remover interface {
	Remove(name string) error
}

// Writer is a [Sink] for one writer: it gets the one file with weights, from its first byte to its last. Config, card and
// report are in what the merge returns. It is for one merge. A merge that finds a bad checkpoint (Options.DropBad) after it began to write cannot
// begin again, and fails.
func Writer(to io.Writer) Sink { return &single{to: to} }

type single struct {
	to   io.Writer
	used bool
}

func (s *single) Create(string, int64) (io.WriteCloser, error) {
	if s.used {
		return nil, &Error{Kind: KindOutput, Detail: "a writer takes one file with weights, but the merge has several",
			Help: "merge into a folder, or into a sink of your own"}
	}
	s.used = true
	return unclosed{s.to}, nil
}

type unclosed struct{ io.Writer }

func (unclosed) Close() error { return nil }

// Memory is a [Sink] that keeps files by name.
type Memory map[string][]byte

// Create begins a file.
func (m Memory) Create(name string, size int64) (io.WriteCloser, error) {
	bytes := make([]byte, size)
	m[name] = bytes
	return &memoryFile{bytes: bytes}, nil
}

// Remove takes a file back.
func (m Memory) Remove(name string) error {
	delete(m, name)
	return nil
}

// nowhere is a sink that keeps nothing: what is written is only hashed.
type nowhere struct{}

func (nowhere) Create(string, int64) (io.WriteCloser, error) { return unclosed{io.Discard}, nil }

// memoryFile is written in place; pieces do not overlap.
type memoryFile struct {
	bytes []byte
	at    int
}

func (f *memoryFile) Write(piece []byte) (int, error) {
	n := copy(f.bytes[f.at:], piece)
	f.at += n
	return n, nil
}

func (f *memoryFile) WriteAt(piece []byte, at int64) (int, error) {
	return copy(f.bytes[at:], piece), nil
}

func (f *memoryFile) Close() error { return nil }

// inOrder hands pieces on in order; those that come early wait in memory.
type inOrder struct {
	mutex sync.Mutex
	to    io.Writer
	at    int64
	early []piece
}

type piece struct {
	at    int64
	bytes []byte
}

// WriteAt takes a piece, which the caller may use again.
func (o *inOrder) WriteAt(bytes []byte, at int64) (int, error) {
	o.mutex.Lock()
	defer o.mutex.Unlock()
	if at != o.at {
		place := sort.Search(len(o.early), func(i int) bool { return o.early[i].at > at })
		o.early = append(o.early, piece{})
		copy(o.early[place+1:], o.early[place:])
		o.early[place] = piece{at, append([]byte(nil), bytes...)}
		return len(bytes), nil
	}
	n, err := o.write(bytes)
	for err == nil && len(o.early) > 0 && o.early[0].at == o.at {
		next := o.early[0]
		o.early[0].bytes = nil
		o.early = o.early[1:]
		_, err = o.write(next.bytes)
	}
	return n, err
}

func (o *inOrder) write(bytes []byte) (int, error) {
	n, err := o.to.Write(bytes)
	o.at += int64(n)
	if err == nil && n < len(bytes) {
		err = io.ErrShortWrite
	}
	return n, err
}

// output is a file with weights in the making.
type output struct {
	name string
	size int64
	file io.WriteCloser
	to   io.WriterAt
}

// create begins a file of the output.
func create(sink Sink, name string, size int64) (*output, error) {
	file, err := sink.Create(name, size)
	if err != nil {
		return nil, refused("cannot write it", name, err)
	}
	made := &output{name: name, size: size, file: file}
	if to, ok := file.(io.WriterAt); ok {
		made.to = to
	} else {
		made.to = &inOrder{to: file}
	}
	return made, nil
}

func (o *output) write(bytes []byte, at int64) error {
	n, err := o.to.WriteAt(bytes, at)
	if err == nil && n < len(bytes) {
		err = io.ErrShortWrite
	}
	if err != nil {
		return refused("cannot write it", o.name, err)
	}
	return nil
}

func (o *output) close() error {
	if err := o.file.Close(); err != nil {
		return refused("cannot write it", o.name, err)
	}
	return nil
}

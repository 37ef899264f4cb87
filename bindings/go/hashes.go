package mwa

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"

	"lukechampine.com/blake3"
)

// HashedFile is a file by content.
type HashedFile struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	BLAKE3 string `json:"blake3,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // where it was asked for, and in reports from before mwa used BLAKE3
}

// is whether a file of that many bytes has the same content. Where the report has SHA-256 alone, BLAKE3, which the core
// makes when it merges, is known afterwards.
func (f *HashedFile) is(ctx context.Context, file io.ReaderAt, name string) (bool, error) {
	sum, old := blake3.New(32, nil), sha256.New()
	to := io.Writer(sum)
	if f.BLAKE3 == "" {
		to = io.MultiWriter(sum, old)
	}
	if err := readThrough(ctx, file, f.Bytes, name, to); err != nil {
		return false, err
	}
	found := hex.EncodeToString(sum.Sum(nil))
	if f.BLAKE3 != "" {
		return found == f.BLAKE3, nil
	}
	f.BLAKE3 = found
	return hex.EncodeToString(old.Sum(nil)) == f.SHA256, nil
}

// hashedAtOnce is how many bytes of a file are read at a time for its hash.
const hashedAtOnce = 1 << 20

// readThrough reads a file into hashes.
func readThrough(ctx context.Context, file io.ReaderAt, size int64, name string, to io.Writer) error {
	buffer := make([]byte, min(size, hashedAtOnce))
	for at := int64(0); at < size; at += int64(len(buffer)) {
		if err := stopped(ctx); err != nil {
			return err
		}
		buffer = buffer[:min(size-at, hashedAtOnce)]
		if err := readWhole(file, buffer, at, name); err != nil {
			return err
		}
		_, _ = to.Write(buffer) // a hash takes everything
	}
	return nil
}

// hashes is what the core hears of files that it has not hashed: machine code does that several times as fast, where reading a
// file once more costs little.
type hashes struct {
	Inputs     []content    `json:"inputs"`
	Outputs    []content    `json:"outputs"`
	Companions []HashedFile `json:"companions"`
}

// content is a file whose name and length the core knows.
type content struct {
	BLAKE3 string `json:"blake3"`
}

// hashes hashes all files of a merge from disk to disk; those that are written are closed.
func (m *merge) hashes(known *state, folder string) (*hashes, error) {
	files, source := []string{}, Source(m.source)
	files = append(files, known.Inputs...)
	for _, made := range m.outputs {
		files = append(files, path.Join(filepath.ToSlash(folder), made.name))
	}
	sums, errs := make([]HashedFile, len(files)), make([]error, len(files))
	var next atomic.Int64
	var all sync.WaitGroup
	for range min(m.threads(), len(files)) {
		all.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(files)); i = next.Add(1) - 1 {
				sums[i], errs[i] = sum(m.ctx, source, files[i])
			}
		})
	}
	all.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	made := &hashes{Companions: []HashedFile{}}
	for i, file := range sums {
		beside := i - len(known.Inputs) - len(known.Outputs)
		switch {
		case i < len(known.Inputs):
			made.Inputs = append(made.Inputs, content{file.BLAKE3})
		case beside < 0:
			made.Outputs = append(made.Outputs, content{file.BLAKE3})
		default:
			file.Name = m.outputs[len(known.Outputs)+beside].name
			made.Companions = append(made.Companions, file)
		}
	}
	return made, nil
}

// sum is a file by content.
func sum(ctx context.Context, source Source, name string) (HashedFile, error) {
	found, err := source.Stat(name)
	if err != nil {
		return HashedFile{}, refused("cannot read it", name, err)
	}
	file, err := source.Open(name)
	if err != nil {
		return HashedFile{}, refused("cannot open it", name, err)
	}
	defer file.Close()
	sum := blake3.New(32, nil)
	err = readThrough(ctx, file, found.Size, name, sum)
	return HashedFile{Name: name, Bytes: found.Size, BLAKE3: hex.EncodeToString(sum.Sum(nil))}, err
}

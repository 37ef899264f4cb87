package mwa

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

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
	buffer := make([]byte, min(f.Bytes, hashedAtOnce))
	for at := int64(0); at < f.Bytes; at += int64(len(buffer)) {
		if err := stopped(ctx); err != nil {
			return false, err
		}
		buffer = buffer[:min(f.Bytes-at, hashedAtOnce)]
		if err := readWhole(file, buffer, at, name); err != nil {
			return false, err
		}
		_, _ = to.Write(buffer) // a hash takes everything
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

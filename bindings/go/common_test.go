package mwa

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"lukechampine.com/blake3"
)

// repository is where the vectors, situations and the sample run are.
const repository = "../.."

// sampleHash is the BLAKE3 of the sample run's merge, as the README has it.
func sampleHash(t *testing.T) string {
	for _, line := range strings.Split(string(read(t, filepath.Join(repository, "README.md"))), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[0] == "native" {
			return fields[len(fields)-1]
		}
	}
	t.Fatal("the README has no hash of the sample run")
	return ""
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	bytes, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

func readJSON(t *testing.T, name string, into any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(read(t, name)))
	if err := decoder.Decode(into); err != nil {
		t.Fatal(name, err)
	}
}

func b3(bytes []byte) string {
	sum := blake3.Sum256(bytes)
	return hex.EncodeToString(sum[:])
}

func sha(bytes []byte) string {
	sum := sha256.Sum256(bytes)
	return hex.EncodeToString(sum[:])
}

// own is an error as ours.
func own(t *testing.T, err error) *Error {
	t.Helper()
	var own *Error
	if !errors.As(err, &own) {
		t.Fatalf("%v is not an error of this package", err)
	}
	return own
}

// isLeft is whether anything but these names lies in a folder.
func isLeft(t *testing.T, folder string, but ...string) bool {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	return len(entries) != len(but)
}

package mwa

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// Kind is what went wrong, in a word that never changes its meaning between versions.
type Kind string

// The kinds of failure, as every other language has them.
const (
	KindHeader    Kind = "header"     // a file's head is malformed, or it holds no tensors that can be read
	KindDtype     Kind = "dtype"      // a dtype that cannot be merged, or dtypes that cannot be combined
	KindShape     Kind = "shape"      // shapes of one tensor differ between inputs
	KindNames     Kind = "names"      // the inputs do not hold the same tensors
	KindConfig    Kind = "config"     // adapter configs are unreadable or disagree
	KindMethod    Kind = "method"     // the adapter method may not be averaged
	KindMetric    Kind = "metric"     // a metric is missing, ambiguous, diverged or unreadable
	KindWeights   Kind = "weights"    // weights or the penalty are out of range
	KindNonFinite Kind = "non-finite" // an input with non-zero weight holds NaN or infinity
	KindOverflow  Kind = "overflow"   // a finite result does not fit the output's dtype
	KindDiffers   Kind = "differs"    // data that must be identical in every input is not
	KindCrossRun  Kind = "cross-run"  // the inputs are not checkpoints of one run
	KindInput     Kind = "input"      // a path is not something that can be merged
	KindOutput    Kind = "output"     // the output cannot be written where it was asked for
	KindIO        Kind = "io"         // the system refused to read or write
	KindUsage     Kind = "usage"      // options that contradict each other or lie out of range
	KindStopped   Kind = "stopped"    // the context was cancelled; its cause is what the error unwraps to
	KindDevice    Kind = "device"     // the core failed, or has no memory left
	KindBug       Kind = "bug"        // a mistake in mwa
)

// Error is a failure with its place, the facts, and what to do about it. Every error of this package is one.
type Error struct {
	Kind   Kind   `json:"kind"`
	File   string `json:"file"`   // the file or folder, or empty
	Tensor string `json:"tensor"` // the tensor, or empty
	Detail string `json:"detail"` // what is wrong
	Help   string `json:"help"`   // what to do about it, or empty
	cause  error
}

// Error is the whole message but for the help, for people: names come from strangers, and what in them is not for reading is
// escaped. Programs take the facts one by one.
func (e *Error) Error() string {
	text := e.Detail
	if e.Tensor != "" {
		text = "tensor `" + e.Tensor + "` " + text
	}
	if e.File != "" {
		text = e.File + ": " + text
	}
	return readable(text)
}

// readable is a text without controls, marks that change its direction, and invisible characters.
func readable(text string) string {
	if strings.IndexFunc(text, isHidden) < 0 {
		return text
	}
	var shown strings.Builder
	for _, character := range text {
		if isHidden(character) {
			shown.WriteString(strings.Trim(strconv.QuoteRuneToASCII(character), "'"))
		} else {
			shown.WriteRune(character)
		}
	}
	return shown.String()
}

func isHidden(character rune) bool {
	return unicode.In(character, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp)
}

// Unwrap is the error of the system or of the context that is behind it, if any.
func (e *Error) Unwrap() error { return e.cause }

// refused is an error of the system as one of ours.
func refused(doing, file string, cause error) *Error {
	var own *Error
	if errors.As(cause, &own) {
		return own
	}
	return &Error{Kind: KindIO, File: file, Detail: doing + ": " + reason(cause), Help: advice(cause), cause: cause}
}

// reason is what the system said, without the path that the error names already.
func reason(cause error) string {
	var path *fs.PathError
	if errors.As(cause, &path) {
		cause = path.Err
	}
	return cause.Error()
}

func advice(cause error) string {
	switch {
	case errors.Is(cause, fs.ErrPermission):
		return "check the permissions of the file and of its folder"
	case errors.Is(cause, syscall.ENOSPC):
		return "free some space, or write elsewhere"
	case errors.Is(cause, syscall.EFBIG):
		return "raise the limit on file sizes (ulimit -f), or write to another file system"
	case errors.Is(cause, syscall.EMFILE):
		return "raise the limit on open files (ulimit -n), or close some in other programs"
	}
	return ""
}

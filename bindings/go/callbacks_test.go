package mwa

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// TestNothing refuses arguments that are nothing, before any work.
func TestNothing(t *testing.T) {
	here := t.TempDir()
	var none Memory
	var noFiles Source
	var written bytes.Buffer
	disk, paths, out := Disk(), []string{sampleRun}, Folder(filepath.Join(here, "merged"))
	for _, it := range []struct {
		source Source
		paths  []string
		sink   Sink
		says   string
	}{
		{noFiles, paths, out, "the source is nil"},
		{FS(nil), paths, out, "the source is nil"},
		{disk, nil, out, "no path is given"},
		{disk, []string{}, Writer(&written), "no path is given"},
		{disk, []string{""}, out, "a path is empty: it would be the folder where paths begin"},
		{Files{}, []string{"run", ""}, Memory{}, "a path is empty: it would be the folder where paths begin"},
		{Files{"run/a.safetensors": nil}, paths, out, "the file run/a.safetensors of the source is nil"},
		{disk, paths, nil, "the sink is nil"},
		{disk, paths, none, "the sink is a Memory that is nil"},
		{disk, paths, Writer(nil), "the sink is a Writer of nil"},
		{disk, paths, Folder(""), "the output is not the path of a folder"},
	} {
		_, err := MergeFrom(context.Background(), it.source, it.paths, it.sink, Options{})
		if failure := own(t, err); failure.Kind != KindUsage || failure.Detail != it.says {
			t.Errorf("%s: %#v", it.says, failure)
		}
	}
	var noContext context.Context
	_, merged := Merge(noContext, sampleRun, filepath.Join(here, "merged"), Options{})
	_, weighed := WeightsFrom(context.Background(), nil, paths, Options{})
	_, inspected := Inspect(context.Background(), "", Options{})
	_, checked := Verify(context.Background(), "", Options{})
	for _, err := range []error{merged, weighed, inspected, checked} {
		if own(t, err).Kind != KindUsage {
			t.Error(err)
		}
	}
	if isLeft(t, here) || written.Len() > 0 {
		t.Error("something was written")
	}
}

var errThrown = errors.New("thrown")

// bad is a source and a sink that panics where it is told to, after some calls that go well.
type bad struct {
	Source
	Memory
	at    string
	after int
}

func (b *bad) may(panics string) {
	if b.at == panics {
		if b.after--; b.after < 0 {
			panic(errThrown)
		}
	}
}

func (b *bad) Stat(path string) (Info, error) {
	b.may("Stat")
	return b.Source.Stat(path)
}

func (b *bad) Open(path string) (Reader, error) {
	b.may("Open")
	return b.Source.Open(path)
}

func (b *bad) Create(name string, size int64) (io.WriteCloser, error) {
	b.may("Create")
	file, err := b.Memory.Create(name, size)
	return badFile{file, b}, err
}

type badFile struct {
	io.WriteCloser
	of *bad
}

func (f badFile) Write(piece []byte) (int, error) {
	f.of.may("Write")
	return f.WriteCloser.Write(piece)
}

// thrown is what a call panics with.
func thrown(call func()) (value any) {
	defer func() { value = recover() }()
	call()
	return nil
}

// TestPanics carries a panic of a callback to whoever called, with all goroutines ended and nothing left.
func TestPanics(t *testing.T) {
	here := t.TempDir()
	out := filepath.Join(here, "new", "merged")
	before := runtime.NumGoroutine()
	check := func(name string, merge func() error) {
		t.Helper()
		var err error
		value := thrown(func() { err = merge() })
		cause, ok := value.(error)
		if !ok || !errors.Is(cause, errThrown) {
			t.Errorf("%s: %v, %v", name, value, err)
		}
		var elsewhere *Panic
		if errors.As(cause, &elsewhere) && !strings.Contains(cause.Error(), "callbacks_test.go") {
			t.Errorf("%s does not say where: %v", name, cause)
		}
		if isLeft(t, here) {
			t.Errorf("%s left something", name)
		}
	}
	for _, options := range []Options{{Threads: 1, Residual: "off"}, {Threads: 3, Residual: "off"}, {Threads: 2, Space: "product", Last: 2}} {
		options.Progress = func(Progress) { panic(errThrown) }
		check("Progress", func() error {
			_, err := Merge(context.Background(), sampleRun, out, options)
			return err
		})
		options.Progress = nil
		// the first calls look at files, later ones merge them
		for at, most := range map[string]int{"Stat": 2, "Open": 40, "Create": 1, "Write": 3} {
			for _, after := range []int{0, most} {
				made := &bad{Source: Disk(), Memory: Memory{}, at: at, after: after}
				check(at, func() error {
					var sink Sink = made
					if at == "Stat" || at == "Open" {
						sink = Folder(out)
					}
					_, err := MergeFrom(context.Background(), made, []string{sampleRun}, sink, options)
					return err
				})
			}
		}
	}
	// a callback may end its goroutine, as Fatal of a test does
	_, err := Merge(context.Background(), sampleRun, out, Options{Progress: func(Progress) { runtime.Goexit() }})
	if own(t, err).Detail != "a callback ended its goroutine" || isLeft(t, here) {
		t.Error(err)
	}
	for range 50 {
		if runtime.NumGoroutine() <= before {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if now := runtime.NumGoroutine(); now > before {
		t.Errorf("%d goroutines are left", now-before)
	}
	if report, err := Merge(context.Background(), sampleRun, out, Options{}); err != nil || len(report.Inputs) == 0 {
		t.Error("a merge after all this fails", err)
	}
	if _, err := os.Stat(out); err != nil {
		t.Error(err)
	}
}

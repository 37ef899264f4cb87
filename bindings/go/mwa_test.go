package mwa

import (
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const sampleRun = repository + "/examples/sample-run"

// TestSample merges the sample run from folder to folder, by any number of goroutines: the README's hash.
func TestSample(t *testing.T) {
	before := stamps(t, sampleRun)
	var first *Report
	for _, threads := range []int{1, 2, 7} {
		out := filepath.Join(t.TempDir(), "new", "merged")
		var last Progress
		report, err := Merge(context.Background(), sampleRun, out, Options{Threads: threads, Progress: func(progress Progress) {
			if progress.Done < last.Done {
				t.Error("progress goes back")
			}
			last = progress
		}})
		if err != nil {
			t.Fatal(err)
		}
		merged := read(t, filepath.Join(out, "adapter_model.safetensors"))
		if b3(merged) != sampleHash(t) || report.Outputs[0].BLAKE3 != sampleHash(t) {
			t.Errorf("%d threads: %s", threads, b3(merged))
		}
		if last.Done != last.Total || last.Total == 0 {
			t.Errorf("%d threads: progress ends at %v", threads, last)
		}
		for _, file := range slices.Concat(report.Outputs, report.Companions) {
			if content := read(t, filepath.Join(out, file.Name)); b3(content) != file.BLAKE3 || int64(len(content)) != file.Bytes {
				t.Errorf("%s is not what the report says", file.Name)
			}
		}
		for i := range report.Inputs {
			report.Inputs[i].Path = ""
		}
		if first == nil {
			first = report
		}
		if !reflect.DeepEqual(report, first) {
			t.Errorf("%d threads: %+v\n%+v", threads, report, first)
		}
		if isLeft(t, filepath.Dir(out), "merged") {
			t.Error("something is left beside the output")
		}
	}
	if !reflect.DeepEqual(stamps(t, sampleRun), before) {
		t.Error("an input was touched")
	}
}

// stamps are the lengths and times of all files in a folder.
func stamps(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(folder, func(path string, entry os.DirEntry, err error) error {
		if err == nil {
			info, failed := entry.Info()
			found[path], err = info.ModTime().String()+info.Mode().String(), failed
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestSourcesAndSinks merges out of an archive, readers and a file system, into memory and a writer.
func TestSourcesAndSinks(t *testing.T) {
	var packed bytes.Buffer
	archive, readers := zip.NewWriter(&packed), Files{}
	err := filepath.WalkDir(sampleRun, func(path string, entry os.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inner, _ := filepath.Rel(sampleRun, path) // it lies in there
		content := read(t, path)
		readers["run/"+filepath.ToSlash(inner)] = bytes.NewReader(content)
		file, err := archive.Create("run/" + filepath.ToSlash(inner))
		if err == nil {
			_, err = file.Write(content)
		}
		return err
	})
	if err != nil || archive.Close() != nil {
		t.Fatal(err)
	}
	unpacked, err := zip.NewReader(bytes.NewReader(packed.Bytes()), int64(packed.Len()))
	if err != nil {
		t.Fatal(err)
	}
	for name, source := range map[string]Source{"archive": FS(unpacked), "readers": readers, "folder": FS(os.DirFS(filepath.Dir(sampleRun)))} {
		run := "run"
		if name == "folder" {
			run = filepath.Base(sampleRun)
		}
		for _, path := range []string{"./" + run, run + "/../" + run + "/"} {
			if weighed, err := WeightsFrom(context.Background(), source, []string{path}, Options{}); err != nil || len(weighed.Inputs) != 5 {
				t.Errorf("%s: %s: %v", name, path, err)
			}
		}
		made := Memory{}
		if _, err := MergeFrom(context.Background(), source, []string{run}, made, Options{}); err != nil {
			t.Fatal(name, err)
		}
		if b3(made["adapter_model.safetensors"]) != sampleHash(t) {
			t.Errorf("%s: other bytes", name)
		}
		if _, ok := made["adapter_config.json"]; !ok || len(made[reportName]) == 0 || len(made[cardName]) == 0 {
			t.Errorf("%s: lacks files: %d", name, len(made))
		}
		for _, options := range []Options{{}, {Space: "product", Last: 2, Threads: 3}} {
			var written bytes.Buffer
			to := Writer(&written)
			report, err := MergeFrom(context.Background(), source, []string{run}, to, options)
			if err != nil {
				t.Fatal(name, err)
			}
			if b3(written.Bytes()) != report.Outputs[0].BLAKE3 {
				t.Errorf("%s: the writer got other bytes than the report says", name)
			}
			length := written.Len()
			_, err = MergeFrom(context.Background(), source, []string{run}, to, options)
			if own(t, err).Detail != "the sink is a Writer that got another merge already" || written.Len() != length {
				t.Error(name, err)
			}
		}
		out := filepath.Join(t.TempDir(), "merged")
		if _, err := MergeFrom(context.Background(), source, []string{run}, Folder(out), Options{}); err != nil {
			t.Fatal(name, err)
		}
		if b3(read(t, filepath.Join(out, "adapter_model.safetensors"))) != sampleHash(t) {
			t.Errorf("%s: other bytes in the folder", name)
		}
	}
}

// TestWrongInputs refuses what cannot be, naming it, and leaves nothing.
func TestWrongInputs(t *testing.T) {
	here := t.TempDir()
	full := filepath.Join(here, "full")
	if err := errors.Join(os.Mkdir(full, 0o777), os.WriteFile(filepath.Join(full, "mine"), nil, 0o666)); err != nil {
		t.Fatal(err)
	}
	for _, it := range []struct {
		run, out string
		options  Options
		kind     Kind
		file     string
		says     string
	}{
		{filepath.Join(here, "nothing"), "out", Options{}, KindInput, filepath.Join(here, "nothing"), "does not exist"},
		{sampleRun, "full", Options{}, KindOutput, full, "exists already"},
		{sampleRun, "full", Options{Force: true}, KindOutput, full, "is not an earlier merge (it has no mwa-report.json); it is not replaced, even with Force"},
		{sampleRun, "full/mine", Options{}, KindOutput, filepath.Join(full, "mine"), "exists and is not a folder"},
		{sampleRun, "out", Options{Penalty: Number(2)}, KindWeights, "", ""},
		{sampleRun, "out", Options{Scheme: "steep"}, KindUsage, "", "option scheme: \"steep\" does not fit; it must be linear, power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum or geometric-median"},
		{sampleRun, "out", Options{Weights: []float64{}}, KindWeights, "", ""},
		{sampleRun, "out", Options{Threads: -1}, KindUsage, "", ""},
		{sampleRun, "out", Options{Metric: "eval_los"}, KindMetric, sampleRun, ""},
		{sampleRun, "out", Options{Rank: "3"}, KindUsage, "", ""},
	} {
		_, err := Merge(context.Background(), it.run, filepath.Join(here, it.out), it.options)
		failure := own(t, err)
		if failure.Kind != it.kind || failure.File != it.file || it.says != "" && failure.Detail != it.says {
			t.Errorf("%+v: %#v", it, failure)
		}
		if isLeft(t, here, "full") {
			t.Fatalf("%+v: something is left", it)
		}
	}
	run := filepath.Join(here, "run")
	if err := os.CopyFS(run, os.DirFS(sampleRun)); err != nil {
		t.Fatal(err)
	}
	for _, out := range []string{"checkpoint-550/merged", "checkpoint-550", "."} {
		_, err := Merge(context.Background(), run, filepath.Join(run, out), Options{Select: "all"})
		if failure := own(t, err); failure.Kind != KindOutput {
			t.Errorf("%s: %v", out, err)
		}
	}
	if stamps(t, run)[filepath.Join(run, "checkpoint-550/merged")] != "" {
		t.Error("something is left in the input")
	}
}

// TestForce replaces an earlier merge and nothing else.
func TestForce(t *testing.T) {
	out := filepath.Join(t.TempDir(), "merged")
	if _, err := Merge(context.Background(), sampleRun, out, Options{Last: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := Merge(context.Background(), sampleRun, out, Options{}); own(t, err).Kind != KindOutput {
		t.Fatal(err)
	}
	if _, err := Merge(context.Background(), sampleRun, out, Options{Force: true}); err != nil {
		t.Fatal(err)
	}
	if b3(read(t, filepath.Join(out, "adapter_model.safetensors"))) != sampleHash(t) || isLeft(t, filepath.Dir(out), "merged") {
		t.Error("it was not replaced")
	}
	if err := os.WriteFile(filepath.Join(out, "mine"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	_, err := Merge(context.Background(), sampleRun, out, Options{Force: true})
	if own(t, err).Detail != "holds what the earlier merge did not write: mine; it is not replaced, even with Force" {
		t.Error(err)
	}
}

// TestLinks copies no companion that is a link out of its checkpoint, and merges through links.
func TestLinks(t *testing.T) {
	here := t.TempDir()
	run := filepath.Join(here, "run")
	if err := os.CopyFS(run, os.DirFS(sampleRun)); err != nil {
		t.Fatal(err)
	}
	secret, link := filepath.Join(here, "secret"), filepath.Join(here, "link")
	err := errors.Join(os.WriteFile(secret, []byte("{}"), 0o666), os.Symlink(run, link),
		os.RemoveAll(filepath.Join(run, "checkpoint-1000/tokenizer.json")),
		os.Symlink(secret, filepath.Join(run, "checkpoint-1000/tokenizer.json")))
	if err != nil {
		t.Skip(err)
	}
	report, err := Merge(context.Background(), link, filepath.Join(here, "out"), Options{Select: "all"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(here, "out/tokenizer.json")); err == nil {
		t.Error("a file from outside was copied")
	}
	place, _ := filepath.EvalSymlinks(secret) // it is there
	note := filepath.ToSlash(link) + "/checkpoint-1000/tokenizer.json is left out: it is a link out of the checkpoint, to " + place +
		"; put the file itself there to have it copied"
	if !slices.Contains(report.Notes, note) || report.Inputs[0].Path != "../run/checkpoint-550" {
		t.Errorf("%+v", report)
	}
}

// TestCancel stops a merge midway: nothing is left.
func TestCancel(t *testing.T) {
	here := t.TempDir()
	cause := errors.New("enough")
	for at := range 6 {
		ctx, cancel := context.WithCancelCause(context.Background())
		jobs := 0
		_, err := Merge(ctx, sampleRun, filepath.Join(here, "new/out"), Options{Threads: 1 + at%3, chunk: 1 << 12, Progress: func(Progress) {
			if jobs++; jobs > at*40 {
				cancel(cause)
			}
		}})
		if own(t, err).Kind != KindStopped || !errors.Is(err, cause) {
			t.Error(err)
		}
		if isLeft(t, here) {
			t.Fatal("something is left")
		}
	}
}

// changing is a source in which a file changes while it is read.
type changing struct{ Source }

func (c changing) Stat(name string) (Info, error) {
	found, err := c.Source.Stat(name)
	if filepath.Base(name) == "adapter_model.safetensors" {
		found.Modified = time.Now()
	}
	return found, err
}

// TestTrouble says which file changed, cannot be read or cannot be written.
func TestTrouble(t *testing.T) {
	_, err := MergeFrom(context.Background(), changing{Disk()}, []string{sampleRun}, Memory{}, Options{})
	if failure := own(t, err); failure.Kind != KindIO || failure.Detail != "changed while it was read" {
		t.Error(err)
	}
	_, err = MergeFrom(context.Background(), broken{Disk()}, []string{sampleRun}, Memory{}, Options{Threads: 3})
	if failure := own(t, err); failure.Kind != KindIO || !errors.Is(err, io.ErrNoProgress) || filepath.Base(failure.File) != "adapter_model.safetensors" {
		t.Errorf("%#v", err)
	}
	_, err = MergeFrom(context.Background(), Disk(), []string{sampleRun}, Writer(full{}), Options{Threads: 3})
	if failure := own(t, err); failure.Kind != KindIO || !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("%#v", err)
	}
}

// TestZeroIsAValue tells options that are 0 from those that are not set, where 0 is not the default.
func TestZeroIsAValue(t *testing.T) {
	for _, it := range []struct {
		options Options
		says    string
	}{
		{Options{Method: "trimmed-mean", Outliers: Whole(0)}, "0"},
		{Options{Method: "trimmed-mean"}, "1"},
		{Options{Scheme: "krum", Outliers: Whole(0), Last: 6}, "0"},
		{Options{Scheme: "krum", Last: 6}, "1"},
	} {
		report, err := MergeFrom(context.Background(), Disk(), []string{sampleRun}, Memory{}, it.options)
		if err != nil {
			t.Fatal(err)
		}
		if outliers := report.Weighting.Outliers; outliers == nil || fmt.Sprint(*outliers) != it.says {
			t.Errorf("%+v: %v", it.options, outliers)
		}
	}
	_, err := Weights(context.Background(), sampleRun, Options{Metric: "eval_loss", MetricTolerance: Whole(-1)})
	if failure := own(t, err); failure.Kind != KindUsage {
		t.Error(err)
	}
}

// TestNotFinite names the option whose number is none.
func TestNotFinite(t *testing.T) {
	for says, options := range map[string]Options{
		"option penalty: NaN":       {Penalty: Number(math.NaN())},
		"option ema_decay: NaN":     {EmaDecay: Number(math.NaN())},
		"option weights: Infinity":  {Weights: []float64{1, math.Inf(1)}},
		"option weights: -Infinity": {Weights: []float64{math.Inf(-1), 1}},
	} {
		_, err := Weights(context.Background(), sampleRun, options)
		failure := own(t, err)
		if failure.Kind != KindUsage || failure.Detail != says+" does not fit; it must be a finite number" {
			t.Errorf("%#v", failure)
		}
	}
}

// TestDropBad begins again without a checkpoint that diverged, where what was written can be taken back.
func TestDropBad(t *testing.T) {
	run := filepath.Join(t.TempDir(), "run")
	if err := os.CopyFS(run, os.DirFS(sampleRun)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(run, "checkpoint-950/adapter_model.safetensors")
	weights := read(t, path)
	copy(weights[len(weights)-2:], "\x01\x7e") // no number
	if err := os.WriteFile(path, weights, 0o666); err != nil {
		t.Fatal(err)
	}
	options := Options{Last: 3, DropBad: true}
	report, err := MergeFrom(context.Background(), Disk(), []string{run}, Memory{}, options)
	// another takes its place
	if err != nil || len(report.Inputs) != 3 {
		t.Error(report, err)
	}
	var written bytes.Buffer
	for sink, what := range map[Sink]string{Writer(&written): "a writer", &noRemover{}: "a sink that is no Remover"} {
		_, err = MergeFrom(context.Background(), Disk(), []string{run}, sink, options)
		failure := own(t, err)
		if failure.Kind != KindNonFinite || failure.Help != what+" cannot begin again: merge into Folder or Memory, or leave the checkpoint out" {
			t.Errorf("%#v", failure)
		}
	}
}

// noRemover is a sink that takes nothing back.
type noRemover struct{ nowhere }

// TestCauses finds what is behind an error, wherever a source refused.
func TestCauses(t *testing.T) {
	for at, it := range map[string]struct{ file, says string }{
		"Stat":   {"run/checkpoint-950", "cannot open it: the network is down"},
		"List":   {"run/checkpoint-950", "cannot list it: the network is down"},
		"Open":   {"run/checkpoint-950/adapter_model.safetensors", "cannot open it: the network is down"},
		"ReadAt": {"run/checkpoint-950/adapter_model.safetensors", "cannot read it: the network is down"},
	} {
		source := refusing{FS(os.DirFS(filepath.Dir(sampleRun))), at, strings.Replace(it.file, "run", filepath.Base(sampleRun), 1)}
		for _, threads := range []int{1, 3} {
			_, merged := MergeFrom(context.Background(), source, []string{"sample-run"}, Memory{}, Options{Threads: threads})
			_, weighed := WeightsFrom(context.Background(), source, []string{"sample-run"}, Options{Scheme: "krum"})
			for _, err := range []error{merged, weighed} {
				failure := own(t, err)
				if failure.Kind != KindIO || failure.File != source.file || failure.Detail != it.says || !errors.Is(err, errRefused) {
					t.Errorf("%s: %#v", at, failure)
				}
			}
		}
	}
	_, merged := Merge(context.Background(), "nothing", filepath.Join(t.TempDir(), "merged"), Options{})
	_, weighed := Weights(context.Background(), "nothing", Options{})
	_, based := Weights(context.Background(), sampleRun, Options{MetricsFrom: "nothing"})
	_, inspected := Inspect(context.Background(), "nothing", Options{})
	_, verified := Verify(context.Background(), "nothing", Options{})
	for i, err := range []error{merged, weighed, based, inspected, verified} {
		if !errors.Is(err, fs.ErrNotExist) || own(t, err).Kind != KindInput {
			t.Errorf("%d: %#v", i, err)
		}
	}
}

var errRefused = errors.New("the network is down")

// refusing is a source that refuses one path in one call.
type refusing struct {
	Source
	at, file string
}

func (r refusing) refuses(at, name string) error {
	if r.at == at && name == r.file {
		return errRefused
	}
	return nil
}

func (r refusing) Stat(name string) (Info, error) {
	if err := r.refuses("Stat", name); err != nil {
		return Info{}, err
	}
	return r.Source.Stat(name)
}

func (r refusing) List(name string) ([]string, error) {
	if err := r.refuses("List", name); err != nil {
		return nil, err
	}
	return r.Source.List(name)
}

func (r refusing) Open(name string) (Reader, error) {
	if err := r.refuses("Open", name); err != nil {
		return nil, err
	}
	file, err := r.Source.Open(name)
	if r.refuses("ReadAt", name) != nil {
		return refusingReader{file}, err
	}
	return file, err
}

type refusingReader struct{ Reader }

func (refusingReader) ReadAt([]byte, int64) (int, error) { return 0, errRefused }

// broken is a source whose weights cannot be read beyond their heads.
type broken struct{ Source }

func (b broken) Open(name string) (Reader, error) {
	reader, err := b.Source.Open(name)
	if filepath.Base(name) == "adapter_model.safetensors" {
		return brokenReader{reader}, err
	}
	return reader, err
}

type brokenReader struct{ Reader }

func (b brokenReader) ReadAt(to []byte, at int64) (int, error) {
	if at > 100_000 {
		return 0, io.ErrNoProgress
	}
	return b.Reader.ReadAt(to, at)
}

// full is a writer that takes nothing.
type full struct{}

func (full) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

// TestWeights weighs as the merge does.
func TestWeights(t *testing.T) {
	weighed, err := Weights(context.Background(), sampleRun, Options{Last: 3})
	if err != nil {
		t.Fatal(err)
	}
	merged, err := MergeFrom(context.Background(), Disk(), []string{sampleRun}, Memory{}, Options{Last: 3})
	if err != nil {
		t.Fatal(err)
	}
	for i, input := range weighed.Inputs {
		if input.Weight != merged.Inputs[i].Weight || input.Name != merged.Inputs[i].Name {
			t.Errorf("%+v, but merged was %+v", input, merged.Inputs[i])
		}
	}
	if len(weighed.Inputs) != 3 {
		t.Error(weighed.Inputs)
	}
}

// TestMemoryStaysFlat fails 10,000 times, in each way that ends in another place.
func TestMemoryStaysFlat(t *testing.T) {
	calls := 10_000
	if testing.Short() {
		calls = 1000
	}
	fail := func(times int) {
		for i := range times {
			run, options := filepath.Join(sampleRun, "nothing"), Options{}
			switch {
			case i%10 == 0:
				run, options.Metric = sampleRun+"/checkpoint-550", "nothing"
			case i%2 == 0:
				options.Scheme = "steep"
			}
			if _, err := Weights(context.Background(), run, options); err == nil {
				t.Fatal("it did not fail")
			}
		}
	}
	fail(calls / 10)
	before := inUse()
	fail(calls)
	if after := inUse(); after > before+4<<20 {
		t.Errorf("%d bytes are in use after %d failures, %d before", after, calls, before)
	}
}

// inUse is how much memory is reachable, and how much was asked of the system beside it.
func inUse() uint64 {
	runtime.GC()
	runtime.GC()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	return memory.HeapAlloc + memory.StackInuse + memory.OtherSys
}

// TestMessages are for people: what could move a cursor is escaped.
func TestMessages(t *testing.T) {
	failure := &Error{Kind: KindNames, File: "a\nb", Tensor: "t\u202e", Detail: "is \x1b[2Jgone"}
	if said := failure.Error(); said != `a\nb: tensor `+"`"+`t\u202e`+"`"+` is \x1b[2Jgone` {
		t.Error(said)
	}
}

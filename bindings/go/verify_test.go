package mwa

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// verified is what is told of a merged folder that can be verified.
func verified(t *testing.T, out string) *Verified {
	t.Helper()
	found, err := Verify(context.Background(), out, Options{})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// TestVerify finds a merge as it was written, and whatever differs.
func TestVerify(t *testing.T) {
	here := t.TempDir()
	run, out := filepath.Join(here, "run"), filepath.Join(here, "merged")
	if err := os.CopyFS(run, os.DirFS(sampleRun)); err != nil {
		t.Fatal(err)
	}
	for _, options := range []Options{{}, {Space: "product", Rank: "auto", Last: 4}, {Weights: []float64{1, -0.25}, Last: 2, Dtype: "f16"}} {
		options.Force = true
		if _, err := Merge(context.Background(), run, out, options); err != nil {
			t.Fatal(err)
		}
		found := verified(t, out)
		if !found.IsGood() || len(found.Inputs) == 0 || len(found.Outputs) != 1 || len(found.Companions) == 0 {
			t.Errorf("%+v: %+v", options, found)
		}
	}
	write := func(name, content string) {
		path := filepath.Join(out, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o777), os.WriteFile(path, []byte(content), 0o666)); err != nil {
			t.Fatal(err)
		}
	}
	write("notes.txt", "mine")
	write(".git/config.json", "hidden")
	if found := verified(t, out); !found.IsGood() || len(found.Others) != 1 || found.Others[0].State != Beside {
		t.Errorf("%+v", found)
	}
	write("inner/model.BIN", "mine")
	if found := verified(t, out); found.IsGood() || len(found.Others) != 2 || found.Others[0].State != Foreign {
		t.Errorf("%+v", found)
	}
	write("adapter_config.json", "{}")
	if found := verified(t, out); found.IsGood() || found.Companions[0].State != Changed || !*found.Remade {
		t.Errorf("%+v", found)
	}
	if err := os.Remove(filepath.Join(run, "checkpoint-1000/adapter_model.safetensors")); err != nil {
		t.Fatal(err)
	}
	if found := verified(t, out); found.IsGood() || found.Remade != nil || found.Inputs[len(found.Inputs)-1].State != Gone {
		t.Errorf("%+v", found)
	}
	for folder, says := range map[string]string{
		run: "holds no mwa-report.json", filepath.Join(run, "checkpoint-900/adapter_config.json"): "holds no mwa-report.json",
		filepath.Join(here, "nothing"): "does not exist", filepath.Join(run, "checkpoint-900/adapter_config.json/nothing"): "does not exist",
	} {
		_, err := Verify(context.Background(), folder, Options{})
		failure := own(t, err)
		if failure.Kind != KindInput || failure.File != folder || failure.Detail != says || failure.Help != "verify takes a folder that mwa wrote, with its report" {
			t.Errorf("%#v", failure)
		}
	}
	text, err := os.ReadFile(filepath.Join(out, reportName))
	if err != nil {
		t.Fatal(err)
	}
	write(reportName, strings.Replace(string(text), `"mwa": "0.`, `"mwa": "9.`, 1))
	_, err = Verify(context.Background(), out, Options{})
	if later := own(t, err); !strings.HasPrefix(later.Detail, "was written by mwa 9.") || later.File != filepath.Join(out, reportName) {
		t.Error(err)
	}
	write(reportName, `{"mwa": "0", "outputs": [{"name": "../secret"}]}`)
	if _, err := Verify(context.Background(), out, Options{}); own(t, err).Detail != "names `../secret`, which is not a file in the folder" {
		t.Error(err)
	}
	write(reportName, "torn")
	if _, err := Verify(context.Background(), out, Options{}); own(t, err).Kind != KindInput {
		t.Error(err)
	}
}

// TestVerifyElsewhere refuses what only the program makes again, and calls nothing of it changed.
func TestVerifyElsewhere(t *testing.T) {
	out := filepath.Join(t.TempDir(), "merged")
	if _, err := Merge(context.Background(), sampleRun, out, Options{Last: 2}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(out, reportName)
	text := string(read(t, path))
	round := `"round": {"rule": "fedavg", "discount": "constant", "rate": 1.0, "momentum": 0.0, "clients": 2, "samples": 60.0`
	for _, it := range []struct{ more, says string }{
		{`"format": "gguf"`, "was made by mwa merge --format, which Verify does not make again"},
		{`"format": "own"`, "was made by mwa merge --format, which Verify does not make again"},
		{`"folded": {"modules": 28, "changed": 28, "replaced": 0}`, "was made by mwa apply, which Verify does not make again"},
		{`"extracted": {"base": "base", "rank": "8", "modules": 28}`, "was made by mwa extract, which Verify does not make again"},
		{`"recovered": {"model": "../lost", "lost": "model.layers.1", "tensors": 9}`, "was made by mwa recover, which Verify does not make again"},
		{round + `, "server": {"kind": "adam", "rate": 0.1, "beta1": 0.9, "beta2": 0.99, "tau": 0.001, "step": 1, "dtype": "keep"}}`,
			"was made by mwa aggregate --server, which Verify does not make again"},
		{round + `, "partials": "summed"}`, "was made by mwa aggregate with exact sums (--partial), which Verify does not make again"},
		{round + `, "partials": "finished"}`, "was made by mwa aggregate with exact sums (--partial), which Verify does not make again"},
		{round + `, "later": 1}`, "says `round.later`, which Verify does not know how to make again"},
		{`"later": {}`, "says `later`, which Verify does not know how to make again"},
	} {
		if err := os.WriteFile(path, []byte(strings.Replace(text, "{", "{"+it.more+",", 1)), 0o666); err != nil {
			t.Fatal(err)
		}
		_, err := Verify(context.Background(), out, Options{})
		failure := own(t, err)
		if failure.Kind != KindUsage || failure.File != path || failure.Detail != it.says || failure.Help != "verify it with the program: mwa verify "+out {
			t.Errorf("%s: %#v", it.more, failure)
		}
	}
	for more, is := range map[string]string{
		strings.Replace(text, `"scheme"`, `"later": 1, "scheme"`, 1):               "says `weighting.later`, which Verify does not know how to make again",
		strings.Replace(text, `"path": "`, `"path": "s3://bucket/run", "x": "`, 1): "is of inputs in a store, such as s3://bucket/run, which Verify does not read",
		// what was recovered lies in several places
		strings.Replace(text, `{`, `{"recovered": {"model": "../lost", "lost": "x", "tensors": 9}, "adapter": "../lost",`, 1): "was made by mwa recover, which Verify does not make again",
	} {
		if err := os.WriteFile(path, []byte(more), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(context.Background(), out, Options{}); own(t, err).Detail != is {
			t.Error(err)
		}
	}
	// what is nothing, and a round that a session makes again
	for _, more := range []string{`"format": null`, round + `, "server": null, "dropped": []}`} {
		if err := os.WriteFile(path, []byte(strings.Replace(text, "{", "{"+more+",", 1)), 0o666); err != nil {
			t.Fatal(err)
		}
		if found := verified(t, out); found.Remade == nil || !*found.Remade {
			t.Errorf("%s: %+v", more, found)
		}
	}
}

// TestVerifyMoments finds second moments wherever they lie, and nothing else there.
func TestVerifyMoments(t *testing.T) {
	here := t.TempDir()
	run, out := filepath.Join(here, "run"), filepath.Join(here, "merged")
	options := Options{Method: "ota", Select: "all", Force: true}
	for _, step := range []string{"50", "100"} {
		name := "checkpoint-" + step
		if err := os.CopyFS(filepath.Join(run, name), os.DirFS(repository+"/host/tests/cli/data/trained/"+name)); err != nil {
			t.Fatal(err)
		}
		moved := filepath.Join(here, step+".pt")
		if err := os.Rename(filepath.Join(run, name, "optimizer.pt"), moved); err != nil {
			t.Fatal(err)
		}
		options.Moments = append(options.Moments, moved)
	}
	if _, err := Merge(context.Background(), run, out, options); err != nil {
		t.Fatal(err)
	}
	if found := verified(t, out); !found.IsGood() || len(found.Inputs) != 4 || found.Inputs[1].Path != options.Moments[0] {
		t.Errorf("%+v", found)
	}
	path := filepath.Join(out, reportName)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"../../50.pt", filepath.ToSlash(options.Moments[0])} {
		forged := strings.Replace(string(text), `"adapter_model.safetensors"`, `"`+name+`"`, 1)
		if err := os.WriteFile(path, []byte(forged), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(context.Background(), out, Options{}); own(t, err).Detail != "names `"+name+"`, which is not a file in the folder" {
			t.Error(err)
		}
	}
	if err := errors.Join(os.WriteFile(path, text, 0o666), os.Remove(options.Moments[1])); err != nil {
		t.Fatal(err)
	}
	if found := verified(t, out); found.IsGood() || found.Remade != nil || found.Inputs[3].State != Gone {
		t.Errorf("%+v", found)
	}
}

// TestVerifySource finds what was merged out of another source through a link in the merged folder.
func TestVerifySource(t *testing.T) {
	out, run := filepath.Join(t.TempDir(), "merged"), filepath.Base(sampleRun)
	if _, err := MergeFrom(context.Background(), FS(os.DirFS(filepath.Dir(sampleRun))), []string{run}, Folder(out), Options{}); err != nil {
		t.Fatal(err)
	}
	if found := verified(t, out); found.IsGood() || found.Remade != nil || found.Inputs[0].State != Gone {
		t.Errorf("%+v", found)
	}
	place, err := filepath.Abs(sampleRun)
	if err == nil {
		err = os.Symlink(place, filepath.Join(out, run))
	}
	if err != nil {
		t.Skip(err)
	}
	if found := verified(t, out); !found.IsGood() {
		t.Errorf("%+v", found)
	}
}

// TestInspect says what the sample run holds.
func TestInspect(t *testing.T) {
	found, err := Inspect(context.Background(), sampleRun, Options{})
	if err != nil {
		t.Fatal(err)
	}
	last := found.Checkpoints[len(found.Checkpoints)-1]
	if len(found.Checkpoints) != 10 || *last.Step != 1000 || last.Method != "LORA" || last.Tensors == 0 || len(last.Ranks) != 1 {
		t.Errorf("%+v", found)
	}
	covered := map[string]int{}
	for _, metric := range found.Metrics {
		covered[metric.Name] = metric.Covered
	}
	if covered["eval_loss"] != 10 {
		t.Error(covered)
	}
	if _, err := Inspect(context.Background(), filepath.Join(sampleRun, "nothing"), Options{}); own(t, err).Kind != KindInput {
		t.Error(err)
	}
}

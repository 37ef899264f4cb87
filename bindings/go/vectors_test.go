package mwa

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"testing"
)

// vectors runs what tests/runner.mjs runs, in the same order.
type vectors struct {
	passed, failed int
	outputs        hash.Hash
}

// vector is a case of tests/vectors/index.json.
type vector struct {
	Case      string
	File      string
	Inputs    []string
	Weights   []float64
	Dtype     string
	Output    string
	NonFinite string `json:"non_finite"`
	Error     string
	Tensor    string
	Says      string
	Tensors   []string
}

// inputFile is a checkpoint of one file, with a config or none.
type inputFile struct {
	name   string
	bytes  []byte
	config json.RawMessage
}

// mergeEach merges checkpoints of one file each; the bytes of the output.
func mergeEach(inputs []inputFile, options Options) ([]byte, error) {
	options.chunk = 1000
	files, paths := Files{}, []string{}
	for _, input := range inputs {
		paths = append(paths, input.name)
		if input.config == nil {
			files[input.name] = bytes.NewReader(input.bytes)
			continue
		}
		files[input.name+"/adapter_model.safetensors"] = bytes.NewReader(input.bytes)
		files[input.name+"/adapter_config.json"] = bytes.NewReader(input.config)
	}
	made := Memory{}
	report, err := MergeFrom(context.Background(), files, paths, made, options)
	if err != nil {
		return nil, err
	}
	return made[report.Outputs[0].Name], nil
}

// fails expects a failure of a kind that names what it should.
func fails(err error, kind, tensor, says string) error {
	var own *Error
	if !errors.As(err, &own) {
		return fmt.Errorf("did not fail, but expected %s: %v", kind, err)
	}
	all := fmt.Sprintf("%s: %s %s %s", own.File, own.Tensor, own.Detail, own.Help)
	switch {
	case string(own.Kind) != kind:
		return fmt.Errorf("failed with %s (%s), expected %s", own.Kind, all, kind)
	case !strings.Contains(all, tensor):
		return fmt.Errorf("names tensor %s, expected %s: %s", own.Tensor, tensor, all)
	case !strings.Contains(strings.ToLower(all), strings.ToLower(says)):
		return fmt.Errorf("says %q, expected %q", all, says)
	}
	return nil
}

// tensors are the tensors of a file by name: dtype, shape and bytes. Layout and metadata are not compared.
func tensors(file []byte) string {
	length := binary.LittleEndian.Uint64(file)
	var head map[string]struct {
		Dtype string
		Shape []int
		At    [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(file[8:8+length], &head); err != nil {
		return err.Error()
	}
	data, lines := file[8+length:], []string{}
	for name, tensor := range head {
		if name != "__metadata__" {
			lines = append(lines, fmt.Sprint(name, tensor.Dtype, tensor.Shape, sha(data[tensor.At[0]:tensor.At[1]])))
		}
	}
	sort.Strings(lines)
	return strings.Join(lines, "\n")
}

func (v *vectors) check(t *testing.T, name string, body func() error) {
	if err := body(); err != nil {
		v.failed++
		t.Errorf("%s: %v", name, err)
		return
	}
	v.passed++
}

// TestVectors merges all vectors, and tells what tests/runner.mjs tells in the file that MWA_MADE names.
func TestVectors(t *testing.T) {
	folder := filepath.Join(repository, "tests/vectors")
	file := func(name string) []byte { return read(t, filepath.Join(folder, name)) }
	var index struct{ Cases, Hostile []vector }
	readJSON(t, filepath.Join(folder, "index.json"), &index)
	v := vectors{outputs: sha256.New()}
	for _, it := range index.Cases {
		v.check(t, it.Case, func() error {
			var inputs []inputFile
			for i, name := range it.Inputs {
				inputs = append(inputs, inputFile{name: fmt.Sprintf("input %d", i), bytes: file(name)})
			}
			options := Options{Weights: it.Weights, AllowCrossRun: true, AllowNonFinite: it.NonFinite == "allow", Rewrite: true}
			if it.Dtype != "keep" {
				options.Dtype = it.Dtype
			}
			merged, err := mergeEach(inputs, options)
			if it.Case == "no-tensors" {
				// what the plan can do, but no program would ask for
				return fails(err, "input", "", "no tensors")
			}
			if it.Error != "" {
				return fails(err, it.Error, it.Tensor, it.Says)
			}
			if err != nil {
				return err
			}
			v.outputs.Write(merged)
			if tensors(merged) != tensors(file(it.Output)) {
				return errors.New("differs from " + it.Output)
			}
			return nil
		})
	}
	v.products(t, folder, file)
	for _, it := range index.Hostile {
		v.check(t, it.File, func() error {
			options := Options{Weights: []float64{1}, Dtype: "f32", AllowNonFinite: true}
			_, err := mergeEach([]inputFile{{name: it.File, bytes: file(it.File)}}, options)
			switch {
			case it.Error != "":
				return fails(err, it.Error, it.Tensor, it.Says)
			case len(it.Tensors) == 0:
				return fails(err, "input", "", "no tensors")
			}
			return err
		})
	}
	sample := Memory{}
	report, err := MergeFrom(context.Background(), FS(os.DirFS(filepath.Join(repository, "examples"))), []string{"sample-run"}, sample, Options{})
	if err != nil {
		t.Fatal(err)
	}
	made, _ := json.Marshal(map[string]any{ // plain data
		"passed": v.passed, "failed": v.failed, "skipped": 0,
		"vectors": hex.EncodeToString(v.outputs.Sum(nil)), "sample": report.Outputs[0].BLAKE3,
	})
	if name := os.Getenv("MWA_MADE"); name != "" {
		if err := os.WriteFile(name, made, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	t.Log(string(made))
}

func (v *vectors) products(t *testing.T, folder string, file func(string) []byte) {
	var cases []struct {
		Name    string
		Weights []float64
		Configs []json.RawMessage
	}
	readJSON(t, filepath.Join(folder, "product/index.json"), &cases)
	var expected map[string]string
	readJSON(t, filepath.Join(folder, "product/sha256.json"), &expected)
	ranks := []struct {
		name    string
		options Options
	}{
		{"inputs", Options{}},
		{"1", Options{Rank: "1"}},
		{"full", Options{Rank: "full"}},
		{"energy 0.9", Options{Rank: "auto", Energy: Number(0.9)}},
	}
	for _, it := range cases {
		for _, rank := range ranks {
			title := it.Name + " at rank " + rank.name
			v.check(t, title, func() error {
				var inputs []inputFile
				for i, config := range it.Configs {
					inputs = append(inputs, inputFile{
						fmt.Sprintf("input %d", i), file(fmt.Sprintf("product/%s-%d.safetensors", it.Name, i)), config,
					})
				}
				options := rank.options
				options.Weights, options.Space = it.Weights, "product"
				merged, err := mergeEach(inputs, options)
				if err != nil {
					return err
				}
				v.outputs.Write(merged)
				if sha(merged) != expected[title] {
					return fmt.Errorf("%s, expected %s", sha(merged), expected[title])
				}
				return nil
			})
		}
	}
}

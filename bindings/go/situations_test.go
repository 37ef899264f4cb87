package mwa

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// TestSituations answers every situation as tests/situations/golden.json says that every face does: from folder to folder.
func TestSituations(t *testing.T) {
	folder := filepath.Join(repository, "tests/situations")
	var all struct {
		Blobs []struct {
			Text   *string
			Base64 string
		}
		Situations []struct {
			Situation string
			Why       string
			Paths     []string
			Options   json.RawMessage
			Files     map[string]int
		}
	}
	readJSON(t, filepath.Join(folder, "situations.json"), &all)
	var golden map[string]any
	readJSON(t, filepath.Join(folder, "golden.json"), &golden)
	for _, it := range all.Situations {
		t.Run(it.Situation, func(t *testing.T) {
			t.Parallel()
			here := t.TempDir()
			for name, place := range it.Files {
				path := filepath.Join(here, name)
				blob := all.Blobs[place]
				content, err := base64.StdEncoding.DecodeString(blob.Base64)
				if err != nil {
					t.Fatal(err)
				}
				if blob.Text != nil {
					content = []byte(*blob.Text)
				}
				if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, content, 0o666); err != nil {
					t.Fatal(err)
				}
			}
			options := optionsOf(t, it.Options)
			if options.WeightsFile != "" { // it lies among the files
				options.WeightsFile = filepath.Join(here, options.WeightsFile)
			}
			if options.Base != "" { // so does a base
				options.Base = filepath.Join(here, options.Base)
			}
			paths := []string{}
			for _, path := range it.Paths {
				paths = append(paths, filepath.Join(here, path))
			}
			out := filepath.Join(here, "out")
			_, err := MergeFrom(context.Background(), Disk(), paths, Folder(out), options)
			found, _ := json.Marshal(outcome(t, out, err)) // plain data
			var same any
			if err := json.Unmarshal([]byte(strings.ReplaceAll(string(found), here+"/", "")), &same); err != nil {
				t.Fatal(err)
			}
			if expected := inOurWords(golden[it.Situation]); !reflect.DeepEqual(same, expected) {
				should, _ := json.MarshalIndent(expected, "", " ") // plain data
				is, _ := json.MarshalIndent(same, "", " ")         // plain data
				t.Errorf("%s: is\n%s\nexpected\n%s", it.Why, is, should)
			}
			if err != nil && isLeft(t, here, topmost(it.Files)...) {
				t.Error("an error left something behind")
			}
		})
	}
}

// optionsOf reads options by the names of the command line.
func optionsOf(t *testing.T, text json.RawMessage) Options {
	t.Helper()
	var named map[string]any
	if err := json.Unmarshal(text, &named); err != nil {
		t.Fatal(err)
	}
	if rank, ok := named["rank"].(float64); ok {
		named["rank"] = fmt.Sprint(rank)
	}
	var options Options
	if err := json.Unmarshal(must(json.Marshal(named)), &options); err != nil {
		t.Fatal(err)
	}
	return options
}

func must(text []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return text
}

// topmost are the names in a folder that holds these files.
func topmost(files map[string]int) []string {
	found := map[string]bool{}
	for name := range files {
		first, _, _ := strings.Cut(name, "/")
		found[first] = true
	}
	names := []string{}
	for name := range found {
		names = append(names, name)
	}
	return names
}

// inOurWords is what golden.json has, with options as this package calls them.
func inOurWords(expected any) any {
	answer, _ := expected.(map[string]any)
	failure, _ := answer["error"].(map[string]any)
	for _, part := range []string{"detail", "help"} {
		if text, isText := failure[part].(string); isText {
			failure[part] = spoken(text)
		}
	}
	return expected
}

// outcome is what the package answered, as golden.json has it.
func outcome(t *testing.T, out string, err error) any {
	t.Helper()
	if err != nil {
		failure := own(t, err)
		orNull := func(text string) any {
			if text == "" {
				return nil
			}
			return text
		}
		return map[string]any{"error": map[string]any{
			"kind": failure.Kind, "file": orNull(failure.File), "tensor": orNull(failure.Tensor),
			"detail": failure.Detail, "help": orNull(failure.Help),
		}}
	}
	files := map[string]string{}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if entry.Name() != reportName {
			files[entry.Name()] = sha(read(t, filepath.Join(out, entry.Name())))
		}
	}
	var report map[string]any
	readJSON(t, filepath.Join(out, reportName), &report)
	delete(report, "mwa")
	return map[string]any{"report": report, "files": files}
}

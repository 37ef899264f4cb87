package mwa_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"path/filepath"

	mwa "github.com/mwa-merge/mwa/bindings/go"
)

// Merge the sample run of the repository.
func Example() {
	folder, err := os.MkdirTemp("", "mwa-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(folder)
	report, err := mwa.Merge(context.Background(), "../../examples/sample-run", filepath.Join(folder, "merged"), mwa.Options{})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(report.Inputs), "checkpoints by", report.Weighting.Metric)
	fmt.Println(report.Outputs[0].BLAKE3)
	// Output:
	// 5 checkpoints by eval_loss
	// 7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b
}

// Choose and weigh, and merge from readers into memory.
func ExampleMergeFrom() {
	run := os.DirFS("../../examples")
	merged := mwa.Memory{}
	report, err := mwa.MergeFrom(context.Background(), mwa.FS(run), []string{"sample-run"}, merged, mwa.Options{Last: 2, Penalty: mwa.Number(0)})
	if err != nil {
		log.Fatal(err)
	}
	for _, input := range report.Inputs {
		fmt.Println(input.Name, input.Weight)
	}
	fmt.Println(len(merged["adapter_model.safetensors"]) > 0)
	// Output:
	// sample-run/checkpoint-950 0.5
	// sample-run/checkpoint-1000 0.5
	// true
}

// Command mwa-go merges a run from the command line, as an example of the package: go run ./cmd/mwa-go -o OUT RUN.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"

	mwa "github.com/mwa-merge/mwa/bindings/go"
)

func main() {
	var options mwa.Options
	out := flag.String("o", "merged", "folder for the merge")
	flag.IntVar(&options.Last, "last", 0, "the newest N checkpoints")
	flag.StringVar(&options.Select, "select", "", "best, last or all")
	flag.StringVar(&options.Metric, "metric", "", "loss, eval_loss, step or any logged name")
	flag.StringVar(&options.Space, "space", "", "factors or product")
	flag.IntVar(&options.Threads, "threads", 0, "goroutines that merge; 0 is one per core")
	flag.BoolVar(&options.Force, "force", false, "replace an earlier merge")
	flag.StringVar(&options.Residual, "residual", "", "exact, sketch or off")
	quiet := flag.Bool("quiet", false, "show no progress")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: mwa-go [flags] RUN, flags first: mwa-go -last 5 -o OUT RUN")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	if caches, err := os.UserCacheDir(); err == nil {
		mwa.CompileInto(filepath.Join(caches, "mwa-go"))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if !*quiet {
		options.Progress = func(progress mwa.Progress) {
			fmt.Fprintf(os.Stderr, "\r%3d %%", 100*progress.Done/max(progress.Total, 1))
		}
	}
	report, err := mwa.Merge(ctx, flag.Arg(0), *out, options)
	if !*quiet {
		fmt.Fprintln(os.Stderr)
	}
	var failure *mwa.Error
	if errors.As(err, &failure) {
		fmt.Fprintln(os.Stderr, "mwa-go:", failure)
		if failure.Help != "" {
			fmt.Fprintln(os.Stderr, "help:", failure.Help)
		}
		os.Exit(1)
	}
	for _, input := range report.Inputs {
		fmt.Printf("%.4f  %s\n", input.Weight, input.Name)
	}
	for _, note := range report.Notes {
		fmt.Println("note:", note)
	}
	for _, file := range report.Outputs {
		fmt.Println(file.BLAKE3, filepath.Join(*out, file.Name))
	}
}

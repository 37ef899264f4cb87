//go:build unix

// Command bench measures the Go package beside the native program: bench RUN MWA MWA_GO ROUNDS OUT. Every answer is checked.
//
// All take turns in each round, so that what slows the machine down slows all; the first round only warms up.
package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"time"

	mwa "github.com/mwa-merge/mwa/bindings/go"
)

// contender merges into a folder.
type contender struct {
	name string
	work func(out string) error
	// seconds on the wall and of processor, a round each
	wall, cpu []float64
}

func main() {
	if len(os.Args) != 6 {
		log.Fatal("usage: bench RUN MWA MWA_GO ROUNDS OUT")
	}
	run, native, program, out := os.Args[1], os.Args[2], os.Args[3], os.Args[5]
	rounds, err := strconv.Atoi(os.Args[4])
	if err != nil {
		log.Fatal(err)
	}
	threads := runtime.GOMAXPROCS(0)
	for _, residual := range []string{"", "off"} {
		extra := []string{}
		if residual != "" {
			extra = []string{"--residual", residual}
		}
		process := func(name string, arguments ...string) func(string) error {
			return func(out string) error {
				command := exec.Command(name, slices.Concat(arguments, extra, []string{"--quiet", "-o", out})...)
				if name == program {
					command.Args = append(command.Args, run)
				}
				said, err := command.CombinedOutput()
				if err != nil {
					err = fmt.Errorf("%w: %s", err, said)
				}
				return err
			}
		}
		count := strconv.Itoa(threads)
		measure([]*contender{
			{name: "mwa merge --threads " + count, work: process(native, "merge", run, "--select", "all", "--threads", count)},
			{name: "mwa-go, the whole process", work: process(program, "--select", "all", "--threads", count)},
			{name: "mwa.Merge in a running process", work: func(out string) error {
				_, err := mwa.Merge(context.Background(), run, out, mwa.Options{Select: "all", Threads: threads, Residual: residual})
				return err
			}},
		}, rounds, out, residual)
	}
}

func measure(contenders []*contender, rounds int, out, residual string) {
	expected := ""
	for round := range rounds + 1 {
		for _, it := range contenders {
			if err := os.RemoveAll(out); err != nil {
				log.Fatal(err)
			}
			wall, cpu := time.Now(), used()
			if err := it.work(out); err != nil {
				log.Fatalf("%s: %v", it.name, err)
			}
			if round > 0 {
				it.wall = append(it.wall, time.Since(wall).Seconds())
				it.cpu = append(it.cpu, used()-cpu)
			}
			merged, err := os.ReadFile(filepath.Join(out, "adapter_model.safetensors"))
			if err != nil {
				log.Fatal(err)
			}
			hash := fmt.Sprintf("%x", sha256.Sum256(merged))
			if expected == "" {
				expected = hash
			}
			if hash != expected {
				log.Fatalf("%s: the answer differs", it.name)
			}
		}
	}
	title := "with the residual"
	if residual != "" {
		title = "--residual " + residual
	}
	fmt.Printf("\n| %s | median s | processor s | speed beside native: median (least … most) |\n|---|---|---|---|\n", title)
	for _, it := range contenders {
		var ratios []float64
		for i, wall := range it.wall {
			ratios = append(ratios, contenders[0].wall[i]/wall)
		}
		slices.Sort(ratios)
		fmt.Printf("| %s | %.3f | %.3f | %.2f (%.2f … %.2f) |\n", it.name, median(it.wall), median(it.cpu),
			median(ratios), ratios[0], ratios[len(ratios)-1])
	}
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// used is seconds of processor by this process and those it waited for.
func used() float64 {
	var sum float64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var usage syscall.Rusage
		if err := syscall.Getrusage(who, &usage); err != nil {
			log.Fatal(err)
		}
		for _, part := range []syscall.Timeval{usage.Utime, usage.Stime} {
			sum += float64(part.Sec) + float64(part.Usec)/1e6
		}
	}
	return sum
}

//go:build unix

package mwa

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// mostMemory is how much a process may take that merges a run of any size, in KiB.
const mostMemory = 200 << 10

// TestLarge merges eight checkpoints of 80 MB in a process of its own, whose memory stays bounded.
func TestLarge(t *testing.T) {
	if run := os.Getenv("MWA_LARGE"); run != "" {
		began := time.Now()
		report, err := Merge(context.Background(), run, filepath.Join(filepath.Dir(run), "merged"), Options{Force: true, Select: "all"})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Println("merged", len(report.Inputs), "in", time.Since(began))
		return
	}
	if testing.Short() {
		t.Skip("it takes a while")
	}
	run := filepath.Join(t.TempDir(), "run")
	for step := 1; step <= 8; step++ {
		if err := writeLarge(filepath.Join(run, fmt.Sprintf("checkpoint-%d", step*100)), step); err != nil {
			t.Fatal(err)
		}
	}
	child := exec.Command(os.Args[0], "-test.run=^TestLarge$", "-test.count=1")
	child.Env = append(os.Environ(), "MWA_LARGE="+run)
	said, err := child.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	most := child.ProcessState.SysUsage().(*syscall.Rusage).Maxrss
	if runtime.GOOS == "darwin" {
		most /= 1024
	}
	t.Logf("%d KiB: %s", most, said)
	if most > mostMemory {
		t.Errorf("the merge took %d KiB", most)
	}
}

// writeLarge writes a LoRA checkpoint of 80 MB: bf16, rank 16, 160 modules of 8192 by 8192.
func writeLarge(folder string, step int) error {
	const modules, width, rank = 160, 8192, 16
	const bytes = 2 * width * rank
	head, names := map[string]any{"__metadata__": map[string]string{"format": "pt"}}, 0
	for module := range modules {
		for part, shape := range map[string][]int{"A": {rank, width}, "B": {width, rank}} {
			at := 2 * module * bytes
			if part == "B" {
				at += bytes
			}
			name := fmt.Sprintf("base_model.model.model.layers.%03d.self_attn.q_proj.lora_%s.weight", module, part)
			head[name] = map[string]any{"dtype": "BF16", "shape": shape, "data_offsets": []int{at, at + bytes}}
			names++
		}
	}
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	for len(text)%8 != 0 {
		text = append(text, ' ')
	}
	if err := os.MkdirAll(folder, 0o777); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(folder, "adapter_model.safetensors"))
	if err != nil {
		return err
	}
	// numbers between 0.5 and 2, which drift with the step; as many as a tensor has, and the same in each
	tensor := make([]byte, bytes)
	for i := 0; i < bytes; i += 2 {
		word := uint16(0x3f00 + i*7%251 + step)
		if i%6 == 0 {
			word |= 0x8000
		}
		binary.LittleEndian.PutUint16(tensor[i:], word)
	}
	_, err = file.Write(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...))
	for range names {
		if err == nil {
			_, err = file.Write(tensor)
		}
	}
	config := `{"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "synthetic", "r": 16, "lora_alpha": 32, "target_modules": ["q_proj"], "bias": "none"}`
	log := fmt.Sprintf(`{"global_step": %d, "log_history": [{"step": %d, "loss": %g}]}`, step*100, step*100, 2.0/float64(step))
	return errors.Join(err, file.Close(),
		os.WriteFile(filepath.Join(folder, "adapter_config.json"), []byte(config), 0o666),
		os.WriteFile(filepath.Join(folder, "trainer_state.json"), []byte(log), 0o666))
}

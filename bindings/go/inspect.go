package mwa

import "context"

// Inspection is what a path holds.
type Inspection struct {
	Path        string     `json:"path"`
	Checkpoints []Summary  `json:"checkpoints"` // by step
	Metrics     []Coverage `json:"metrics"`     // what the run logged
	Logs        []FoundLog `json:"logs"`        // in which they were found
	Known       *Known     `json:"known,omitempty"`
	Notes       []string   `json:"notes"`
}

// Known is what something is, and what can be done with it.
type Known struct {
	What string `json:"what"`
	Can  string `json:"can"`
}

// FoundLog is a log of a run: its file or folder, what kind of log it is, and the metrics in it.
type FoundLog struct {
	Path    string   `json:"path"`
	Kind    string   `json:"kind"`
	Metrics []string `json:"metrics"`
}

// Summary is what one checkpoint is.
type Summary struct {
	Name       string         `json:"name"`
	Step       *uint64        `json:"step"`
	Method     string         `json:"method"`  // PEFT's, such as LORA; empty for whole models and loose files
	Verdict    string         `json:"verdict"` // whether that may be averaged
	Ranks      []uint64       `json:"ranks"`
	Dtypes     map[string]int `json:"dtypes"` // how many tensors are of each
	Tensors    int            `json:"tensors"`
	Parameters uint64         `json:"parameters"`
	Bytes      uint64         `json:"bytes"`
	// Of adapters, as far as known: what the names of its tensors say, LoRA's alpha, the modules that it changes, its base model.
	Container     string   `json:"container,omitempty"`
	Alpha         *float64 `json:"alpha,omitempty"`
	TargetModules []string `json:"target_modules,omitempty"`
	BaseModel     string   `json:"base_model,omitempty"`
}

// Coverage is a metric, how many checkpoints have a value of it, and whether it tells them apart.
type Coverage struct {
	Name       string      `json:"name"`
	Covered    int         `json:"covered"`
	Separation *Separation `json:"separation,omitempty"`
}

// Separation is how values of a metric differ.
type Separation struct {
	Values        int     `json:"values"`
	Range         float64 `json:"range"`
	Noise         float64 `json:"noise"` // of one value
	SignalToNoise float64 `json:"signal_to_noise"`
	VonNeumann    float64 `json:"von_neumann"`
	Separates     *bool   `json:"separates"` // whether it tells the checkpoints apart
}

// Inspect looks at a run folder, a checkpoint folder or a file. Of the options only Adapter and WeightsKey count.
func Inspect(ctx context.Context, path string, options Options) (*Inspection, error) {
	return InspectFrom(ctx, Disk(), path, options)
}

// InspectFrom looks at what lies at a path in a source.
func InspectFrom(ctx context.Context, source Source, path string, options Options) (*Inspection, error) {
	what, err := asked(ctx, "inspect", source, []string{path}, options)
	if err != nil {
		return nil, err
	}
	known, err := look(ctx, source, what)
	if err != nil {
		return nil, err
	}
	return known.Inspection, nil
}

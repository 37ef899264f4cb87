package mwa

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
)

// Options is what can be wanted of a merge, beyond its inputs and its output, as on the command line; what is not set has its
// default. They are checked by the core.
type Options struct {
	// made from core/src/options/mod.rs

	// The newest N checkpoints.
	Last int `json:"last,omitzero"`

	// Every K-th checkpoint, counted from the newest.
	Every int `json:"every,omitzero"`

	// Checkpoints between two steps, both included; either end may be left out.
	Steps *Steps `json:"steps,omitzero"`

	// The N checkpoints with the best metric.
	Top int `json:"top,omitzero"`

	// By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed]: best, last, all.
	Select string `json:"select,omitzero"`

	// Exactly these checkpoints, by name.
	Checkpoints []string `json:"checkpoints,omitzero"`

	// The adapter inside checkpoints that hold several.
	Adapter string `json:"adapter,omitzero"`

	// The weights in training states that hold several sets of them, such as model_avg.
	WeightsKey string `json:"weights_key,omitzero"`

	// Leave out checkpoints that diverged, instead of failing.
	DropBad bool `json:"drop_bad,omitzero"`

	// loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max [default: eval_loss if logged, else step].
	Metric string `json:"metric,omitzero"`

	// Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`.
	MetricsFile string `json:"metrics_file,omitzero"`

	// Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&B, MLflow, lm-eval and others.
	MetricsFrom string `json:"metrics_from,omitzero"`

	// Whether lower or higher is better [default: from the metric's name]: min, max.
	Goal string `json:"goal,omitzero"`

	// Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values [default: borda]: borda, kemeny, mean-rank, z-score.
	Combine string `json:"combine,omitzero"`

	// How many questions an accuracy is the share of: it is told whether chance alone may make the difference.
	Questions int `json:"questions,omitzero"`

	// Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log].
	Smooth *float64 `json:"smooth,omitzero"`

	// Take an evaluation that lies up to this many steps away from its checkpoint [default: 0].
	MetricTolerance *int `json:"metric_tolerance,omitzero"`

	// Fail rather than take a value that was not logged right at a checkpoint.
	StrictMetrics bool `json:"strict_metrics,omitzero"`

	// What becomes of the values of each element: their weighted mean; their median, or their mean without the extremes, so that no bad checkpoint decides; a base model and what tasks changed of it, all of it, what each changed most, of that what most agree on, or all that enough of them have a share in; by the curvature that an optimizer's second moments tell, a mean, or a base with what counts most of what was changed; or by the angles between the checkpoints in each tensor, a base and as much of the mean as they agree, a point on the arc between two, or the mean on a sphere, about a base if there is one [default: mean]: mean, median, trimmed-mean, task-arithmetic, magnitude-mask, ties, consensus, ota, ffg, model-stock, slerp, multi-slerp, karcher.
	Method string `json:"method,omitzero"`

	// How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does [default: linear]: linear, power, exponential, rank, decay, ema, uniform, flag, krum, multi-krum, geometric-median.
	Scheme string `json:"scheme,omitzero"`

	// How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8].
	Penalty *float64 `json:"penalty,omitzero"`

	// How many bad checkpoints krum and multi-krum expect, or how many values trimmed-mean leaves out on each side [default: one, for these].
	Outliers *int `json:"outliers,omitzero"`

	// How much of what tasks changed is added to the base: of task-arithmetic, magnitude-mask and consensus of their sum, of ties of their mean [default: 1 for ties, else 1 over the number of tasks].
	Scale *float64 `json:"scale,omitzero"`

	// The share of what each task changed that counts for magnitude-mask, ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg].
	Density *float64 `json:"density,omitzero"`

	// Whether that is a share of the whole model or of each tensor [default: model]: model, tensor.
	DensityPer string `json:"density_per,omitzero"`

	// Of consensus, how much of what the others changed of an element together a task must exceed to have its share in it [default: 0.4].
	MaskLambda *float64 `json:"mask_lambda,omitzero"`

	// How many tasks must have their share in it; what fewer changed is left as in the base [default: 2].
	Agree *int `json:"agree,omitzero"`

	// Where the second moments are, a file for each checkpoint in their order: an optimizer.pt, or what mwa moments writes [default: the optimizer.pt in each checkpoint].
	Moments []string `json:"moments,omitzero"`

	// The power of a second moment that is an element's weight, for ota and ffg [default: 0.5].
	Power *float64 `json:"power,omitzero"`

	// What is added to these weights, as a share of their mean over the tensor [default: 1e-8].
	Epsilon *float64 `json:"epsilon,omitzero"`

	// What they are measured by before checkpoints are compared: their mean over the tensor, or nothing but what few steps left out [default: mean]: mean, none.
	Normalise string `json:"normalise,omitzero"`

	// How many directions the scheme flag keeps [default: one, for this scheme].
	Subspace int `json:"subspace,omitzero"`

	// With scheme decay, how the learning rate would have fallen [default: linear]: linear, cosine, 1-sqrt, inverse, exponential.
	Curve string `json:"curve,omitzero"`

	// What that curve ends at, as a share of where it begins [default: 0, or 0.1 of the curves inverse and exponential].
	Floor *float64 `json:"floor,omitzero"`

	// Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them [default: segments]: segments, megatron.
	Positions string `json:"positions,omitzero"`

	// Take off such a decay what the logged learning rate had fallen by itself.
	CorrectForLr bool `json:"correct_for_lr,omitzero"`

	// With scheme ema, how much the average keeps of itself at each checkpoint or step [default: 0.7].
	EmaDecay *float64 `json:"ema_decay,omitzero"`

	// Which of the two it counts [default: checkpoint]: checkpoint, step.
	EmaPer string `json:"ema_per,omitzero"`

	// Of several run folders, each selected and weighed by itself, how much of each [default: all the same].
	RunWeights []float64 `json:"run_weights,omitzero"`

	// Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}.
	WeightsFile string `json:"weights_file,omitzero"`

	// Your own weights, one per checkpoint, instead of a metric's.
	Weights []float64 `json:"weights,omitzero"`

	// Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors]: factors, product.
	Space string `json:"space,omitzero"`

	// Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest].
	Rank Rank `json:"rank,omitzero"`

	// With rank auto, the share of the squared norm that each module keeps [default: 0.999].
	Energy *float64 `json:"energy,omitzero"`

	// Fail where a module that an input lacks would count as zero.
	Strict bool `json:"strict,omitzero"`

	// How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch]: exact, sketch, off.
	Residual string `json:"residual,omitzero"`

	// Average the factors of adapters, or the models, that are not of one run.
	AllowCrossRun bool `json:"allow_cross_run,omitzero"`

	// Dtype of averaged tensors; keep takes the widest of the inputs [default: keep]: keep, f32, bf16, f16.
	Dtype string `json:"dtype,omitzero"`

	// Part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for [default: the newest checkpoint's files].
	ShardSize string `json:"shard_size,omitzero"`

	// The base model of tasks, or of LoRA checkpoints an earlier one of their run; for formats gguf and mlx the base model's folder or its config.json.
	Base string `json:"base,omitzero"`

	// Let NaN and infinity through instead of failing.
	AllowNonFinite bool `json:"allow_non_finite,omitzero"`

	// Write files anew where one checkpoint alone has weight, instead of copying its own.
	Rewrite bool `json:"rewrite,omitzero"`

	// Replace an earlier merge.
	Force bool `json:"force,omitzero"`

	// Threads [default: one per core].
	Threads int `json:"threads,omitzero"`

	// end of what is made

	// chunk is the most bytes that a job reads of one input; 0 takes the core's own
	chunk int

	// Progress hears how far a merge is, from one goroutine at a time.
	Progress func(Progress) `json:"-"`
}

// Progress is how far a merge is.
type Progress struct {
	Done  int64 // bytes of the inputs that were read and merged
	Total int64 // bytes that are to be read; more than there are where some are read twice. It grows where ranks are found first
}

// Number is a number for an option for which 0 is not the same as nothing.
func Number(value float64) *float64 { return &value }

// Whole is a whole number for such an option.
func Whole(value int) *int { return &value }

// Steps are two steps, both included.
type Steps struct {
	First, Last *uint64 // nil for an open end
}

// Between is the steps from first to last.
func Between(first, last uint64) *Steps { return &Steps{&first, &last} }

// MarshalJSON writes a pair.
func (s Steps) MarshalJSON() ([]byte, error) { return json.Marshal([]*uint64{s.First, s.Last}) }

// Rank is a number in digits, "full" or "auto".
type Rank string

// MarshalJSON writes a number, or a word.
func (r Rank) MarshalJSON() ([]byte, error) {
	if number, err := strconv.ParseUint(string(r), 10, 64); err == nil {
		return json.Marshal(number)
	}
	return json.Marshal(string(r))
}

// checkFinite refuses numbers that JSON cannot have, as the core refuses others.
func (o *Options) checkFinite() error {
	all := reflect.ValueOf(o).Elem()
	for _, field := range reflect.VisibleFields(all.Type()) {
		if !field.IsExported() {
			continue
		}
		var numbers []float64
		switch given := all.FieldByIndex(field.Index).Interface().(type) {
		case *float64:
			if given != nil {
				numbers = []float64{*given}
			}
		case []float64:
			numbers = given
		}
		for _, number := range numbers {
			if math.IsNaN(number) || math.IsInf(number, 0) {
				name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
				said := strings.Replace(strings.TrimPrefix(fmt.Sprint(number), "+"), "Inf", "Infinity", 1)
				return usage("option "+name+": "+said+" does not fit; it must be a finite number", "")
			}
		}
	}
	return nil
}

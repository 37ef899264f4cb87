package mwa

// Report is mwa-report.json: what was merged, with which weights and why, and the hashes of all of it.
type Report struct {
	MWA        string       `json:"mwa"` // the version that merged
	Selected   *Selected    `json:"selected,omitempty"`
	Weighting  Weighting    `json:"weighting"`
	Ranking    *Ranking     `json:"ranking,omitempty"` // where the weights come from several metrics
	Groups     []Group      `json:"groups,omitempty"`  // the weights of modules that have their own; others have the inputs'
	Space      string       `json:"space"`
	Rank       string       `json:"rank,omitempty"`      // in product space: inputs, full, energy SHARE or a number
	Residual   *Distance    `json:"residual,omitempty"`  // how far the result is from the average of what the adapters do
	Grafted    *Grafted     `json:"grafted,omitempty"`   // how much of what was changed of a base counts by second moments
	Quantised  *Distance    `json:"quantised,omitempty"` // how far quantised weights are off by rounding their average to codes
	Dtype      string       `json:"dtype"`
	ShardSize  int64        `json:"shard_size,omitempty"` // the bytes that an output file has at most, where they were parted anew
	Adapter    string       `json:"adapter,omitempty"`
	Inputs     []Input      `json:"inputs"` // oldest first
	Outputs    []HashedFile `json:"outputs"`
	Companions []HashedFile `json:"companions,omitempty"`
	Advice     []Advice     `json:"advice,omitempty"`
	Notes      []string     `json:"notes"`
}

// Selected is which checkpoints were taken, and why.
type Selected struct {
	Rule  string `json:"rule"` // best, last, all or given
	Taken int    `json:"taken"`
	Found int    `json:"found"`
	Line  string `json:"line"` // all of it in words
}

// Weighting is how weights came about.
type Weighting struct {
	Scheme   string            `json:"scheme"`
	Method   string            `json:"method,omitempty"` // what becomes of the values of an element, unless it is their weighted mean
	Penalty  *float64          `json:"penalty,omitempty"`
	Metric   string            `json:"metric,omitempty"`
	Goal     string            `json:"goal,omitempty"`
	Settings map[string]string `json:"settings,omitempty"` // what else the scheme was told, by the names of the options

	Outliers   *uint64  `json:"outliers,omitempty"`
	Subspace   *uint64  `json:"subspace,omitempty"`
	Scale      *float64 `json:"scale,omitempty"`
	Density    *float64 `json:"density,omitempty"`
	DensityPer string   `json:"density_per,omitempty"`
}

// Group is some modules, and their weights.
type Group struct {
	Modules string    `json:"modules"`         // the pattern that fits their names
	Layer   *uint64   `json:"layer,omitempty"` // where a gradient gives each layer its own weights
	Weights []float64 `json:"weights"`         // one per input
	Count   int       `json:"count"`           // how many modules
}

// Ranking is how several metrics order the inputs.
type Ranking struct {
	Combine       string    `json:"combine"` // borda, kemeny, mean-rank or z-score
	Metrics       []Ranked  `json:"metrics"`
	Ranks         []float64 `json:"ranks"`         // of each input in the combined order, 0 for the best
	Comparisons   int       `json:"comparisons"`   // of so many, each of two inputs by one metric,
	Disagreements int       `json:"disagreements"` // the combined order goes against so many
}

// Ranked is a metric of a [Ranking].
type Ranked struct {
	Name   string    `json:"name"`
	Goal   string    `json:"goal"`
	Values []float64 `json:"values"` // of each input
	Ranks  []float64 `json:"ranks"`  // of each input
}

// Input is one input of a merge.
type Input struct {
	Name       string       `json:"name"`
	Path       string       `json:"path"` // the way from the output to it
	Step       *uint64      `json:"step"`
	WeightsKey string       `json:"weights_key,omitempty"`
	Metric     *float64     `json:"metric,omitempty"`
	Source     string       `json:"source,omitempty"` // where the metric's value comes from
	Weight     float64      `json:"weight"`           // its share; all shares sum to 1
	Update     *float64     `json:"update,omitempty"` // of a scheme by steps: what is left of the updates since the one before
	Role       string       `json:"role,omitempty"`   // base, of which the other inputs are tasks
	Files      []HashedFile `json:"files,omitempty"`
}

// Distance is how far merged LoRA modules are from the average of their products.
type Distance struct {
	Overall       float64          `json:"overall"`
	Method        string           `json:"method"` // exact or sketch
	StandardError *float64         `json:"standard_error,omitempty"`
	Modules       []ModuleDistance `json:"modules"`
}

// ModuleDistance is a module of a [Distance].
type ModuleDistance struct {
	Module        string   `json:"module"`
	Rank          *int     `json:"rank,omitempty"`
	Relative      float64  `json:"relative"`
	StandardError *float64 `json:"standard_error,omitempty"`
}

// Grafted is how much of what was changed of a base counts, of each checkpoint.
type Grafted struct {
	Thresholds []float64       `json:"thresholds,omitempty"` // from which v·τ² on; none where each tensor has its own
	Kept       []float64       `json:"kept"`
	Modules    []GraftedModule `json:"modules"`
}

// GraftedModule is a module of a [Grafted].
type GraftedModule struct {
	Module string    `json:"module"`
	Kept   []float64 `json:"kept"`
}

// Advice is a reason to expect little of a merge, or of its weights.
type Advice struct {
	About string  `json:"about"` // schedule, checkpoints, metric or residual
	Value float64 `json:"value"` // the number behind it
	Text  string  `json:"text"`  // what is the matter, and what to do
}

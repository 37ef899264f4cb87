// Package mwa merges the checkpoints of a training run into one adapter or model, each weighted by a metric that the run
// logged. It is the same merge as the mwa program's, with the same options, errors and bytes: the core, as WebAssembly that
// imports nothing, is in this package and runs in wazero, without cgo. See https://arxiv.org/abs/2504.18580 for the method.
//
//	report, err := mwa.Merge(ctx, "runs/my-lora", "merged", mwa.Options{Metric: "eval_loss", Last: 5})
package mwa

import (
	"context"
	"io"
	"slices"
)

// Merge merges a run, or a checkpoint folder or file, into the folder out, which appears whole or not at all: weights, config,
// tokenizer, card and report. Inputs are opened for reading only. The error is an *[Error].
//
// A panic in a callback (Options.Progress, a [Source] or a [Sink]) ends the merge, leaves nothing, and goes on in the goroutine that called; one
// from another goroutine is a *[Panic] then.
func Merge(ctx context.Context, run, out string, options Options) (*Report, error) {
	return MergeFrom(ctx, Disk(), []string{run}, Folder(out), options)
}

// Folder is a folder on this machine's disk as a [Sink]; it appears whole or not at all.
func Folder(path string) Sink { return &folder{path} }

type folder struct{ path string }

// Create is for others: a merge into a folder knows what it does.
func (f *folder) Create(string, int64) (io.WriteCloser, error) {
	return nil, &Error{Kind: KindUsage, File: f.path, Detail: "only a merge writes into this folder"}
}

// MergeFrom merges what lies at paths in a source, into a sink. Paths are run folders, checkpoint folders or files.
//
// Of a source other than [Disk], the report has paths as if they began in the output: [Verify] finds the inputs if such a folder has a
// link to the run.
func MergeFrom(ctx context.Context, source Source, paths []string, sink Sink, options Options) (*Report, error) {
	what, err := asked(ctx, "merge", source, paths, options)
	if err != nil {
		return nil, err
	}
	if err := checkSink(sink); err != nil {
		return nil, err
	}
	out, isFolder := sink.(*folder)
	if !isFolder {
		return mergeWith(ctx, watch(source), what, options, func(*state) (Sink, error) { return sink, nil })
	}
	if err := checkTarget(out.path, options.Force); err != nil {
		return nil, err
	}
	return mergeInto(ctx, source, what, out.path, options)
}

// mergeInto merges into a folder.
func mergeInto(ctx context.Context, source Source, what request, out string, options Options) (*Report, error) {
	var made *staging
	watched := watch(source)
	what.HashedOutside = isOnDisk(source)
	isDone := false
	defer func() {
		// a panic of a callback, too, leaves nothing
		if made != nil && !isDone {
			made.abandon()
		}
	}()
	report, err := mergeWith(ctx, watched, what, options, func(known *state) (Sink, error) {
		var inputs, read []string
		if isOnDisk(source) {
			for _, input := range known.Report.Inputs {
				inputs = append(inputs, input.Name)
			}
			read = watched.files()
		}
		var err error
		made, err = stage(out, options.Force, inputs, read)
		return made, err
	})
	if err == nil && made != nil {
		err = made.publish()
	}
	if err != nil {
		return nil, err
	}
	isDone = true
	return report, nil
}

func isOnDisk(source Source) bool {
	_, ok := source.(disk)
	return ok
}

func usage(detail, help string) error { return &Error{Kind: KindUsage, Detail: detail, Help: help} }

// checkAsked refuses arguments that are nothing, before any work.
func checkAsked(ctx context.Context, source Source, paths []string) error {
	files, isFS := source.(fileSystem)
	readers, _ := source.(Files)
	for name, file := range readers {
		if file == nil {
			return usage("the file "+name+" of the source is nil", "give a bytes.Reader, an io.SectionReader or the like")
		}
	}
	switch {
	case ctx == nil:
		return usage("the context is nil", "give context.Background()")
	case source == nil || isFS && files.files == nil:
		return usage("the source is nil", "give Disk(), FS(files), Files{…} or a Source of your own")
	case len(paths) == 0:
		return usage("no path is given", "give at least one path: a run folder, a checkpoint folder or a file")
	case slices.Contains(paths, ""):
		return usage("a path is empty: it would be the folder where paths begin", `give a run folder, a checkpoint folder or a file; "." is the folder where paths begin`)
	}
	return nil
}

// checkSink refuses a sink that takes nothing.
func checkSink(sink Sink) error {
	switch to := sink.(type) {
	case nil:
		return usage("the sink is nil", "give Folder(path), Memory{}, Writer(w) or a Sink of your own")
	case Memory:
		if to == nil {
			return usage("the sink is a Memory that is nil", "make it: mwa.Memory{}")
		}
	case *single:
		if to.to == nil {
			return usage("the sink is a Writer of nil", "give Writer something to write to")
		}
		if to.used {
			return usage("the sink is a Writer that got another merge already", "make one for each merge")
		}
	}
	return nil
}

// asked is a request, on this machine's disk with paths as the core knows them.
func asked(ctx context.Context, verb string, source Source, paths []string, options Options) (request, error) {
	what := request{Verb: verb, Paths: slices.Clone(paths), Chunk: options.chunk}
	err := checkAsked(ctx, source, paths)
	if err == nil {
		err = options.checkFinite()
	}
	if err != nil {
		return what, err
	}
	if isOnDisk(source) {
		for i, path := range what.Paths {
			if what.Paths[i], err = told(path); err != nil {
				return what, err
			}
		}
		if options.MetricsFile, err = told(options.MetricsFile); err != nil {
			return what, err
		}
		options.WeightsFile, err = told(options.WeightsFile)
	}
	what.Options = options
	return what, err
}

// Weights chooses and weighs the checkpoints of a run as [Merge] would, and writes nothing.
func Weights(ctx context.Context, run string, options Options) (*Report, error) {
	return WeightsFrom(ctx, Disk(), []string{run}, options)
}

// WeightsFrom chooses and weighs what lies at paths in a source.
func WeightsFrom(ctx context.Context, source Source, paths []string, options Options) (*Report, error) {
	what, err := asked(ctx, "weights", source, paths, options)
	if err != nil {
		return nil, err
	}
	known, err := look(ctx, source, what)
	if err != nil {
		return nil, err
	}
	return known.Report, nil
}

// look is what a session knows that only looks at files.
func look(ctx context.Context, from Source, what request) (known *state, err error) {
	source := watch(from)
	defer func() { source.explain(err) }()
	s, err := open(what)
	if err != nil {
		return nil, err
	}
	defer s.close()
	for {
		if err := stopped(ctx); err != nil {
			return nil, err
		}
		next, err := s.next()
		if err != nil {
			return nil, err
		}
		if next == nil {
			return s.state()
		}
		told, err := answers(source, next.Look)
		if err != nil {
			return nil, err
		}
		if err := s.tell(told); err != nil {
			return nil, err
		}
	}
}

package mwa;

import java.nio.file.Path;
import java.util.List;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;

/**
 * Merge the checkpoints of a training run into one, each weighted by a metric it logged.
 *
 * <pre>{@code
 * Report report = Mwa.merge(Path.of("runs/my-lora"), Path.of("merged"), Options.defaults().metric("eval_loss"));
 * }</pre>
 *
 * <p>Options are those of the command line, and the result is the same to the byte. All of it is done by {@link Engine#best()},
 * which {@link #engine()} names.
 */
public final class Mwa {
    private static final Progress QUIET = (done, total) -> {};

    /** Opened when it is first needed, and kept. */
    private static final class Holder {
        private static Engine best;
        private static Chicory chicory;

        /** Not in an initialiser: what is wrong with a library is an exception of each call. */
        static synchronized Engine best() {
            if (best == null) best = Engine.best();
            return best;
        }

        static synchronized Chicory chicory() {
            if (chicory == null) chicory = best() instanceof Chicory own ? own : new Chicory();
            return chicory;
        }
    }

    private Mwa() {}

    /**
     * What merges.
     *
     * @return the engine of this class; to close it does nothing
     */
    public static String engine() {
        return Holder.best().name();
    }

    /**
     * Merge a run into the folder {@code out}, which appears whole or not at all.
     *
     * @param run a run folder, a checkpoint folder or a file
     * @param out the folder to make
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    public static Report merge(Path run, Path out) {
        return merge(run, out, Options.defaults());
    }

    /**
     * As {@link #merge(Path, Path)}, with options.
     *
     * @param run a run folder, a checkpoint folder or a file
     * @param out the folder to make
     * @param options how
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    public static Report merge(Path run, Path out, Options options) {
        return merge(run, out, options, QUIET);
    }

    /**
     * As {@link #merge(Path, Path)}, with options and progress.
     *
     * @param run a run folder, a checkpoint folder or a file
     * @param out the folder to make
     * @param options how
     * @param progress hears how far it is, on this thread; what it throws stops the merge, and so does an interrupt
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    public static Report merge(Path run, Path out, Options options, Progress progress) {
        return merge(List.of(Objects.requireNonNull(run, "run")), out, options, progress);
    }

    /**
     * As {@link #merge(Path, Path)}, of several runs, checkpoints or files.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param out the folder to make
     * @param options how
     * @param progress hears how far it is, on this thread; what it throws stops the merge, and so does an interrupt
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    public static Report merge(List<Path> inputs, Path out, Options options, Progress progress) {
        return Holder.best().merge(inputs, out, options, progress);
    }

    /**
     * Merge files that do not lie on this machine's disk, by Chicory. The report has their paths as if they began in {@code out}:
     * {@link #verify} finds the inputs if that folder has a link to the run.
     *
     * @param source the files
     * @param inputs run folders, checkpoint folders or files in it
     * @param out the folder to make on this machine's disk
     * @param options how; {@code metricsFile} and {@code weightsFile} are paths in the source
     * @param progress hears how far it is, on this thread; what it throws stops the merge, and so does an interrupt
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    public static Report merge(Source source, List<String> inputs, Path out, Options options, Progress progress) {
        Objects.requireNonNull(source, "source");
        Objects.requireNonNull(inputs, "inputs");
        return Holder.chicory().merge(source, inputs, out, options, progress, () -> false);
    }

    /**
     * As {@link #merge(List, Path, Options, Progress)}, on a thread of its own. To cancel the future stops the merge, waits until
     * nothing is left of it, and is too late once the output is in its place.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param out the folder to make
     * @param options how
     * @param progress hears how far it is, on that thread
     * @return what {@code mwa-report.json} says, or a {@link MergeException}
     */
    public static CompletableFuture<Report> mergeAsync(List<Path> inputs, Path out, Options options, Progress progress) {
        return Holder.best().mergeAsync(inputs, out, options, progress);
    }

    /**
     * The same choice and weights as a merge would take, without merging.
     *
     * @param run a run folder, a checkpoint folder or a file
     * @param options how
     * @return a report without outputs
     * @throws MergeException of kind {@code metric} or {@code weights}, naming each checkpoint that is the reason
     */
    public static Report weights(Path run, Options options) {
        return weights(List.of(Objects.requireNonNull(run, "run")), options);
    }

    /**
     * As {@link #weights(Path, Options)}, of several runs, checkpoints or files.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param options how
     * @return a report without outputs
     * @throws MergeException of kind {@code metric} or {@code weights}, naming each checkpoint that is the reason
     */
    public static Report weights(List<Path> inputs, Options options) {
        return Holder.best().weights(inputs, options);
    }

    /**
     * Say what a path is: kind, ranks, dtypes, steps, metrics and their coverage.
     *
     * @param path a run folder, a checkpoint folder or a file
     * @return what it holds
     * @throws MergeException when it holds no weights that can be read
     */
    public static Inspection inspect(Path path) {
        return Holder.best().inspect(path, Options.defaults());
    }

    /**
     * Merge again from the report in a merged folder, and compare bytes and hashes. No input is written to.
     *
     * @param folder what a merge wrote
     * @return what was found; a file that differs is no error
     * @throws MergeException when there is no report, or it is damaged; of kind {@code usage} where only the program, or {@code libmwa}, makes it
     *     again: a conversion, a model with its adapter folded in, a step of a server's optimizer and the like
     */
    public static Verified verify(Path folder) {
        return Holder.best().verify(folder);
    }
}

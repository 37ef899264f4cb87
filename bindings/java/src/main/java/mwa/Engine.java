package mwa;

import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.CompletableFuture;

/**
 * What merges: the core module in this virtual machine by Chicory, without native code, or the native library {@code libmwa}.
 * Both take the same options, give the same bytes, and fail with the same facts. {@link Mwa} uses {@link #best()}.
 *
 * <p>Engines may be used by several threads at once. A closed one takes no further calls.
 */
public interface Engine extends AutoCloseable {
    /**
     * The native library where there is one and this virtual machine can call it (Java 22 or newer), else Chicory.
     *
     * <p>The library is looked for at the path that the system property {@code mwa.library} or the environment variable
     * {@code MWA_LIBRARY} names, else where the system looks for {@code libmwa}.
     *
     * @return an engine of its own
     */
    static Engine best() {
        return Native.find().orElseGet(Chicory::new);
    }

    /**
     * The core module, by Chicory.
     *
     * @return an engine of its own
     */
    static Engine chicory() {
        return new Chicory();
    }

    /**
     * The native library.
     *
     * @param library its path
     * @return an engine of its own
     * @throws MergeException of kind {@code device} when there is none, or this virtual machine cannot call it
     */
    static Engine libmwa(Path library) {
        return Native.open(library.toString());
    }

    /**
     * Which engine this is.
     *
     * @return {@code Chicory …} or {@code libmwa at …}
     */
    String name();

    /**
     * Merge a run, or checkpoints, into the folder {@code out}, which appears whole or not at all.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param out the folder to make
     * @param options how
     * @param progress hears how far it is, on this thread; what it throws stops the merge
     * @return what {@code mwa-report.json} says
     * @throws MergeException what keeps the checkpoints from being averaged or written; nothing is left behind
     */
    Report merge(List<Path> inputs, Path out, Options options, Progress progress);

    /**
     * As {@link #merge}, on a thread of its own. To cancel the future stops the merge, waits until nothing is left of it, and
     * is too late once the output is in its place.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param out the folder to make
     * @param options how
     * @param progress hears how far it is, on that thread
     * @return what {@link #merge} returns or throws
     */
    default CompletableFuture<Report> mergeAsync(List<Path> inputs, Path out, Options options, Progress progress) {
        return Pending.start(pending -> merge(inputs, out, options, (done, total) -> {
            pending.check();
            progress.at(done, total);
        }));
    }

    /**
     * The same choice and weights as {@link #merge} would take, without merging.
     *
     * @param inputs run folders, checkpoint folders or files
     * @param options how
     * @return a report without outputs
     * @throws MergeException of kind {@code metric} or {@code weights}, naming each checkpoint that is the reason
     */
    Report weights(List<Path> inputs, Options options);

    /**
     * Say what a path is: kind, ranks, dtypes, steps, metrics and their coverage.
     *
     * @param path a run folder, a checkpoint folder or a file
     * @param options of which {@code adapter} counts
     * @return what it holds
     * @throws MergeException when it holds no weights that can be read
     */
    Inspection inspect(Path path, Options options);

    /**
     * Merge again from the report in a merged folder, and compare bytes and hashes. Chicory writes nothing, {@code libmwa} to the temporary folder.
     *
     * @param folder what {@link #merge} wrote
     * @return what was found; a file that differs is no error
     * @throws MergeException when there is no report, or it is damaged
     */
    Verified verify(Path folder);

    @Override
    void close();
}

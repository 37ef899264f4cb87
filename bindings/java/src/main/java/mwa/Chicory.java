package mwa;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.function.BooleanSupplier;

/** The core module, by Chicory; keeps instances for the next call. */
final class Chicory implements Engine {
    /** Bytes of an instance that is not worth keeping: its memory never shrinks. */
    private static final long MOST = 64 << 20;
    /** Instances that are kept. */
    private static final int KEPT = 16;

    /** Bytes that a job reads of one input: in larger pieces, files are opened less often. */
    private static final int CHUNK = 1 << 20;

    private final int chunk;
    private final Deque<Core> idle = new ArrayDeque<>();
    private boolean isClosed;

    Chicory() {
        this(CHUNK);
    }

    Chicory(int chunk) {
        this.chunk = chunk;
    }

    /** Bytes that a job reads of one input. */
    int chunk() {
        return chunk;
    }

    /** An instance for one merge at a time. */
    synchronized Core core() {
        if (isClosed) throw new MergeException("usage", null, "the engine is closed", "open another");
        Core core = idle.poll();
        return core == null ? new Core() : core;
    }

    /** Take an instance back, unless it is broken or large. */
    synchronized void giveBack(Core core) {
        if (!isClosed && core.isSound() && core.size() <= MOST && idle.size() < KEPT) idle.push(core);
    }

    @Override
    public String name() {
        return "Chicory " + com.dylibso.chicory.wasm.Version.version() + " on Java " + Runtime.version().feature();
    }

    @Override
    public Report merge(List<Path> inputs, Path out, Options options, Progress progress) {
        return merge(new Disk(), Disk.texts(inputs), out, options, progress, () -> false);
    }

    @Override
    public CompletableFuture<Report> mergeAsync(List<Path> inputs, Path out, Options options, Progress progress) {
        List<String> paths = Disk.texts(inputs);
        return Pending.start(pending -> merge(new Disk(), paths, out, options, progress, pending::isStopped));
    }

    Report merge(Source source, List<String> paths, Path out, Options options, Progress progress, BooleanSupplier isStopped) {
        Arguments.merge(paths, out, options, progress);
        try (Merging merging = new Merging(this, source, paths, out, options, progress, isStopped)) {
            return merging.run();
        }
    }

    @Override
    public Report weights(List<Path> inputs, Options options) {
        return weights(new Disk(), Disk.texts(inputs), options);
    }

    Report weights(Source source, List<String> paths, Options options) {
        Arguments.options(options);
        Arguments.paths(paths);
        try (Session session = new Session(this, source, new Session.Request("weights", paths, options.ofCore(), null, false, null))) {
            session.next();
            return session.state().report();
        }
    }

    /** Whether programs that load models read files of a name. */
    boolean isLoaded(String name) {
        Core core = core();
        try {
            return core.call("mwa_is_loaded", core.pass(name.getBytes(StandardCharsets.UTF_8))) == 1;
        } finally {
            giveBack(core);
        }
    }

    @Override
    public Inspection inspect(Path path, Options options) {
        String text = Arguments.path(path, "path");
        Arguments.options(options);
        Session.Request request = new Session.Request("inspect", List.of(text), options.ofCore(), null, false, null);
        try (Session session = new Session(this, new Disk(), request)) {
            session.next();
            return session.state().inspection();
        }
    }

    @Override
    public Verified verify(Path folder) {
        Arguments.path(folder, "folder");
        return new Verifying(this, folder).run();
    }

    @Override
    public synchronized void close() {
        isClosed = true;
        idle.clear();
    }
}

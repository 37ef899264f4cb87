package mwa;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.atomic.AtomicLong;
import java.util.function.BooleanSupplier;

/** A merge by the core module, from files to a folder: reads, writes and hashes; what is done with the bytes is the core's. */
final class Merging implements AutoCloseable {
    /** Bytes of a file that is copied, at a time. */
    private static final int COPIED = 1 << 20;

    /** Bytes that a thread takes. */
    private static final long ROOM = 64 << 20;

    private final Source source;
    private final Path out;
    private final boolean force;
    private final Progress progress;
    private final BooleanSupplier isStopped;
    private final Thread caller = Thread.currentThread();
    private final ExecutorService executor;
    private final List<Session> sessions = new ArrayList<>();
    private final ThreadLocal<byte[]> spare = ThreadLocal.withInitial(() -> new byte[0]);
    private final AtomicLong done = new AtomicLong();
    /** What the first session to have a job says of the files. */
    private Session.State known;
    private volatile Staging staging;

    Merging(Chicory engine, Source source, List<String> paths, Path out, Options options, Progress progress, BooleanSupplier isStopped) {
        this.source = source;
        this.out = out;
        this.progress = progress;
        this.isStopped = isStopped;
        this.force = Boolean.TRUE.equals(options.values().get("force"));
        int threads = threads(options.values().get("threads"));
        Staging.check(out, force);
        Session.Request request = new Session.Request("merge", paths, options.ofCore(), engine.chunk(), true, null);
        executor = Executors.newFixedThreadPool(threads, Merging::thread);
        try {
            for (int i = 0; i < threads; i++) sessions.add(new Session(engine, source, request));
        } catch (RuntimeException error) {
            close();
            throw error;
        }
    }

    /** Merge into the folder, which appears whole or not at all. */
    Report run() {
        try {
            Session lead = new Crew(sessions, executor, this::work).run(this::restart);
            if (staging == null) begin(lead);
            // the other threads may have had all jobs
            tell(lead);
            return finish(lead);
        } catch (MergeException error) {
            // channels fail as if by themselves when their thread is interrupted
            if (error.kind().equals("io")) checkStopped();
            throw error;
        }
    }

    @Override
    public void close() {
        executor.shutdownNow();
        if (staging != null) staging.close();
        sessions.forEach(Session::close);
    }

    private void work(Session session, Session.Job job) {
        checkStopped();
        Session.State known = known(session);
        int length = job.reads().stream().mapToInt(Session.Span::length).sum();
        byte[] bytes = room(length);
        Sources.fill(source, known.inputs(), job.reads(), bytes);
        byte[] merged = session.run(job, bytes, length);
        if (!job.writes().isEmpty()) {
            if (staging == null) begin(session);
            ByteBuffer rest = ByteBuffer.wrap(merged);
            for (Session.Span span : job.writes()) {
                ByteBuffer piece = rest.slice(rest.position(), span.length());
                staging.write(known(session).outputs().get(span.file()).name(), span.start(), piece);
                rest.position(rest.position() + span.length());
            }
        }
        done.addAndGet(length);
        if (Thread.currentThread() == caller) tell(session);
    }

    private void tell(Session session) {
        long total = known(session).bytes();
        progress.at(Math.min(done.get(), total), total);
    }

    private byte[] room(int length) {
        if (spare.get().length < length) spare.set(new byte[length]);
        return spare.get();
    }

    private void checkStopped() {
        if (isStopped.getAsBoolean() || Thread.currentThread().isInterrupted()) throw MergeException.stopped();
    }

    /** What is known of the files, once there are jobs. */
    private synchronized Session.State known(Session session) {
        if (known == null) known = session.state();
        return known;
    }

    /** Begin the output, of which the core now knows the files. */
    private synchronized void begin(Session session) {
        if (staging != null) return;
        known = session.state();
        Staging begun = Staging.begin(out, force, inputs());
        try {
            for (int i = 0; i < known.outputs().size(); i++) {
                Session.Output output = known.outputs().get(i);
                begun.create(output.name());
                begun.write(output.name(), 0, ByteBuffer.wrap(session.head(i)));
            }
        } catch (RuntimeException error) {
            begun.close();
            throw error;
        }
        staging = begun;
    }

    /** Places on this machine that are read. */
    private List<Path> inputs() {
        if (!(source instanceof Disk)) return List.of();
        List<Path> inputs = new ArrayList<>();
        known.report().inputs().forEach(input -> inputs.add(Disk.path(input.name())));
        known.companions().forEach(companion -> inputs.add(Disk.path(companion.path())));
        return inputs;
    }

    /** What was written is void. */
    private synchronized void restart() {
        if (staging != null) staging.close();
        staging = null;
        known = null;
        done.set(0);
    }

    private Report finish(Session lead) {
        checkStopped();
        for (Session.Output output : known.outputs()) staging.finish(output.name());
        Source disk = new Disk();
        List<CompletableFuture<Session.Hash>> read = known.inputs().stream().map(path -> hash(source, path)).toList();
        List<CompletableFuture<Session.Hash>> written = known.outputs().stream()
                .map(output -> hash(disk, Disk.text(staging.path(output.name()))))
                .toList();
        List<Report.HashedFile> companions = new ArrayList<>();
        List<String> notes = new ArrayList<>();
        for (Session.Text text : known.texts()) companions.add(write(text));
        for (Session.Companion companion : known.companions()) {
            String place = placeOutside(companion.path());
            if (place == null) {
                companions.add(copy(companion));
            } else {
                notes.add(companion.path() + " is left out: it is a link out of the checkpoint, to " + place
                        + "; put the file itself there to have it copied");
            }
        }
        List<String> ways = known.report().inputs().stream().map(input -> way(input.name())).toList();
        Session.Hashed hashes = new Session.Hashed(all(read), all(written), companions);
        if (source instanceof Disk inputs) known.inputs().forEach(inputs::checkUnchanged);
        Report report = null;
        for (Session.Text text : lead.finish(new Session.Ending(ways, notes, hashes))) {
            if (companions.stream().noneMatch(file -> file.name().equals(text.name()))) write(text);
            if (text.name().equals(Staging.REPORT)) report = Json.report(Json.object(text.content().getBytes(StandardCharsets.UTF_8)));
        }
        checkStopped();
        staging.publish();
        return report;
    }

    /** Hash a file on one of the threads, which have no jobs any more. */
    private CompletableFuture<Session.Hash> hash(Source files, String path) {
        return CompletableFuture.supplyAsync(() -> new Session.Hash(blake3(files, path)), executor);
    }

    private String blake3(Source files, String path) {
        try {
            return Hashes.blake3(files, path, this::checkStopped);
        } catch (IOException error) {
            throw MergeException.io("cannot read it", path, error);
        }
    }

    private static List<Session.Hash> all(List<CompletableFuture<Session.Hash>> hashes) {
        try {
            return hashes.stream().map(CompletableFuture::join).toList();
        } catch (CompletionException error) {
            throw error.getCause() instanceof RuntimeException known ? known : error;
        }
    }

    private Report.HashedFile write(Session.Text text) {
        byte[] bytes = text.content().getBytes(StandardCharsets.UTF_8);
        staging.create(text.name());
        staging.write(text.name(), 0, ByteBuffer.wrap(bytes));
        staging.finish(text.name());
        return new Report.HashedFile(text.name(), bytes.length, Hashes.blake3(bytes), null);
    }

    /** Where a file beside the weights leads, if that is out of its folder: it may be anyone's. */
    private String placeOutside(String path) {
        int end = path.lastIndexOf('/');
        try {
            String place = source.place(path);
            String folder = source.place(end < 0 ? "" : path.substring(0, Math.max(end, 1)));
            boolean isInside = folder.isEmpty() || place.startsWith(folder.endsWith("/") ? folder : folder + "/");
            return isInside ? null : place;
        } catch (IOException error) {
            throw MergeException.io("cannot open it", path, error);
        }
    }

    private Report.HashedFile copy(Session.Companion companion) {
        staging.create(companion.name());
        ByteBuffer bytes = ByteBuffer.wrap(room(COPIED), 0, COPIED);
        long at = 0;
        try {
            for (int count; (count = source.read(companion.path(), at, bytes.clear().limit(COPIED))) > 0; at += count) {
                staging.write(companion.name(), at, bytes.flip());
            }
        } catch (IOException error) {
            throw MergeException.io("cannot read it", companion.path(), error);
        }
        staging.finish(companion.name());
        String copied = Disk.text(staging.path(companion.name()));
        return new Report.HashedFile(companion.name(), at, blake3(new Disk(), copied), null);
    }

    /** The way from the output to a checkpoint, so that the report stays true when both are moved together. */
    private String way(String checkpoint) {
        if (!(source instanceof Disk)) return checkpoint;
        try {
            Path place = Disk.path(checkpoint).toRealPath();
            boolean isSameRoot = place.getRoot().equals(staging.target().getRoot());
            return Disk.text(isSameRoot ? staging.target().relativize(place) : place);
        } catch (IOException error) {
            throw MergeException.io("cannot open it", checkpoint, error);
        }
    }

    /** One per core, as far as the heap has room for an instance and its buffers each. */
    private static int threads(Object wanted) {
        Runtime machine = Runtime.getRuntime();
        if (wanted == null) return (int) Math.max(1, Math.min(machine.availableProcessors(), machine.maxMemory() / ROOM));
        long threads = ((Number) wanted).longValue();
        if (threads > 0 && threads <= 1024) return (int) threads;
        throw new MergeException("usage", null, threads + " is not a number of threads", "use 1 to 1024");
    }

    private static Thread thread(Runnable work) {
        Thread thread = new Thread(work, "mwa");
        thread.setDaemon(true);
        return thread;
    }
}

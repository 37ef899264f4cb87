package mwa;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A merge in the core, step by step, in an instance of its own: the ABI of wasm/README.md. For one thread at a time. */
final class Session implements AutoCloseable {
    /** Bytes from … to of a file, by its number. */
    record Span(int file, long start, long end) {
        int length() {
            return Math.toIntExact(end - start);
        }
    }

    /** A piece of work; one session runs all jobs of a module, in order. */
    record Job(long number, Long module, List<Span> reads, List<Span> writes) {}

    /** What to do next: a job, or nothing any more. */
    record Step(Job work) {}

    /** A file to write, of which the first {@code head} bytes come from {@link #head}. */
    record Output(String name, long length, long head) {}

    /** A file to copy beside the outputs. */
    record Companion(String name, String path) {}

    /** A text to write beside the outputs. */
    record Text(String name, String content) {}

    /** What is known by now. */
    record State(
            Report report,
            Inspection inspection,
            long bytes,
            List<String> inputs,
            List<Output> outputs,
            List<Companion> companions,
            List<Text> texts) {
        private State with(Report report) {
            return new State(report, inspection, bytes, inputs, outputs, companions, texts);
        }
    }

    /** What is wanted; {@code report} is what is merged again, to verify it. */
    record Request(
            String verb, List<String> paths, Map<String, Object> options, Integer chunk, boolean hashedOutside, JsonObject report) {}

    private final Chicory engine;
    private final Core core;
    private final Source source;
    private final long handle;

    /** Open a merge; nothing is read yet. */
    Session(Chicory engine, Source source, Request wanted) {
        this.engine = engine;
        this.source = source;
        byte[] request = Json.bytes(wanted);
        core = engine.core();
        try {
            handle = core.must("mwa_open", core.pass(request));
        } catch (RuntimeException error) {
            engine.giveBack(core);
            throw error;
        }
    }

    /** What to do next; the core's questions are answered on the way. */
    Step next() {
        while (core.call("mwa_next", handle) == 1) {
            JsonObject told = Json.object(core.answer());
            if (told.has("work")) return new Step(job(told.getAsJsonObject("work")));
            byte[] answers = answers(told.getAsJsonArray("look"));
            core.must("mwa_tell", handle, core.pass(answers));
        }
        if (core.answer().length > 0) throw core.failure();
        return new Step(null);
    }

    /** Run a job; the bytes of its reads lie one after the other. Gives those of its writes. */
    byte[] run(Job job, byte[] bytes, int length) {
        long address = core.allocate(length);
        core.write(address, bytes, length);
        core.must("mwa_run", handle, job.number, address);
        return core.answer();
    }

    /** After a job that failed: whether the merge begins again without a bad checkpoint, and what was written is void. */
    boolean again() {
        return core.call("mwa_again", handle) == 1;
    }

    /** What the last job that was run has found, for the other sessions of the merge. */
    byte[] found() {
        core.must("mwa_found", handle);
        return core.answer();
    }

    /** Take in what another session has found in a job. */
    void take(long number, byte[] found) {
        core.must("mwa_take", handle, number, core.pass(found));
    }

    State state() {
        core.must("mwa_state", handle);
        JsonObject told = Json.object(core.answer());
        JsonElement report = told.remove("report");
        State state = Json.read(State.class, told);
        return report.isJsonNull() ? state : state.with(Json.report(report.getAsJsonObject()));
    }

    /** The first bytes of an output. */
    byte[] head(int output) {
        core.must("mwa_head", handle, output);
        return core.answer();
    }

    /** A file's hash, as the core has it. */
    record Hash(String blake3) {}

    /** The hashes of all files, of a merge that is hashed outside. */
    record Hashed(List<Hash> inputs, List<Hash> outputs, List<Report.HashedFile> companions) {}

    /** What the host has to tell in the end: ways to the inputs, what else is to be known, and the hashes, if it makes them. */
    record Ending(List<String> paths, List<String> notes, Hashed hashes) {}

    /** All texts to write beside the weights. */
    List<Text> finish(Ending ending) {
        core.must("mwa_finish", handle, core.pass(Json.bytes(ending)));
        return List.of(Json.read(Text[].class, core.answer()));
    }

    @Override
    public void close() {
        if (core.isSound()) core.call("mwa_close", handle);
        engine.giveBack(core);
    }

    private static Job job(JsonObject work) {
        JsonElement module = work.get("module");
        return new Job(
                work.get("number").getAsLong(),
                module == null ? null : module.getAsLong(),
                List.of(Json.read(Span[].class, work.get("reads"))),
                List.of(Json.read(Span[].class, work.get("writes"))));
    }

    /** A 4-byte length, so much JSON, then all bytes that were read. */
    private byte[] answers(JsonArray questions) {
        List<Object> answers = new ArrayList<>();
        ByteArrayOutputStream read = new ByteArrayOutputStream();
        for (JsonElement question : questions) answers.add(answer(question.getAsJsonObject(), read));
        byte[] json = Json.bytes(answers);
        ByteBuffer told = ByteBuffer.allocate(4 + json.length + read.size()).order(ByteOrder.LITTLE_ENDIAN);
        return told.putInt(json.length).put(json).put(read.toByteArray()).array();
    }

    private Object answer(JsonObject question, ByteArrayOutputStream read) {
        Map.Entry<String, JsonElement> asked = question.entrySet().iterator().next();
        JsonElement about = asked.getValue();
        return switch (asked.getKey()) {
            case "kind" -> answer("cannot open it", () -> kind(source.entry(about.getAsString())));
            case "list" -> answer("cannot list it", () -> Map.of("names", source.list(about.getAsString())));
            case "place" -> answer("cannot open it", () -> Map.of("place", source.place(about.getAsString())));
            case "read" -> answer("cannot read it", () -> {
                JsonArray range = about.getAsJsonArray();
                byte[] bytes = read(range.get(0).getAsString(), range.get(1).getAsLong(), range.get(2).getAsLong());
                read.writeBytes(bytes);
                return Map.of("bytes", bytes.length);
            });
            default -> throw new MergeException("bug", null, "the core asks " + question, "please report it");
        };
    }

    private interface Look {
        Object look() throws IOException;
    }

    private static Object answer(String doing, Look look) {
        try {
            return look.look();
        } catch (IOException error) {
            // a list with a null, as what to do may be unknown
            List<String> failed = new ArrayList<>();
            failed.add(doing + ": " + Trouble.why(error));
            failed.add(Trouble.help(error));
            return Map.of("failed", failed);
        }
    }

    private static Object kind(Source.Entry entry) {
        return switch (entry.type()) {
            case FILE -> Map.of("file", entry.size());
            case FOLDER -> "folder";
            case OTHER -> "other";
            case MISSING -> "missing";
        };
    }

    /** Bytes of a file as far as it goes. */
    private byte[] read(String path, long start, long end) throws IOException {
        long there = Math.max(Math.min(end, source.entry(path).size()) - start, 0);
        ByteBuffer bytes = ByteBuffer.allocate(Math.toIntExact(there));
        int done = Sources.fill(source, path, start, bytes);
        return done == bytes.capacity() ? bytes.array() : java.util.Arrays.copyOf(bytes.array(), done);
    }
}

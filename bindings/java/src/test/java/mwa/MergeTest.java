package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertSame;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assertions.fail;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CancellationException;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Merges from folder to folder, by each engine: what comes out, and what is left when nothing does. */
final class MergeTest {
    private static final Progress QUIET = (done, total) -> {};

    @TempDir
    Path folder;

    static Stream<Engine> engines() {
        return Repository.engines().stream();
    }

    private Report merge(Engine engine, Path run, Path out, Options options) {
        return engine.merge(List.of(run), out, options, QUIET);
    }

    private MergeException failure(Engine engine, Path run, Options options) {
        return assertThrows(MergeException.class, () -> merge(engine, run, folder.resolve("refused"), options));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void theSampleRunGivesTheHashOfTheReadme(Engine engine) throws IOException {
        Map<String, String> before = Repository.state(Repository.SAMPLE);
        Path out = folder.resolve("new/folders/out");
        List<Long> left = new ArrayList<>();
        Report report = engine.merge(List.of(Repository.SAMPLE), out, Options.defaults(), (done, total) -> {
            assertTrue(0 <= done && done <= total);
            left.add(total - done);
        });
        assertEquals(Repository.SAMPLE_HASH, Repository.hash(out.resolve(Repository.WEIGHTS)));
        assertEquals(Repository.SAMPLE_HASH, report.outputs().get(0).blake3());
        assertEquals(5, report.inputs().size());
        assertEquals("best", report.selected().rule());
        assertEquals(out.toRealPath().relativize(Repository.SAMPLE.resolve("checkpoint-750")).toString(), report.inputs().get(0).path());
        assertEquals(List.of("README.md", "adapter_config.json", Repository.WEIGHTS, "mwa-report.json"), Repository.names(out));
        assertEquals(List.of("out"), Repository.names(out.getParent()), "nothing else is left");
        assertEquals(0, left.get(left.size() - 1), "all is done when the merge ends");
        assertEquals(before, Repository.state(Repository.SAMPLE), "inputs are not touched");
        assertTrue(engine.verify(out).isGood());
    }

    @ParameterizedTest
    @MethodSource("engines")
    void anOutputIsReplacedByForceOnlyAndOnlyAnEarlierMerge(Engine engine) throws IOException {
        Path out = folder.resolve("out");
        merge(engine, Repository.SAMPLE, out, Options.defaults());
        MergeException exists = assertThrows(MergeException.class, () -> merge(engine, Repository.SAMPLE, out, Options.defaults()));
        assertEquals("output", exists.kind());
        assertEquals(out.toString(), exists.file());
        assertTrue(exists.help().contains("replace an earlier merge"), exists.help());
        Options forced = Options.defaults().with("force", true).with("last", 2);
        merge(engine, Repository.SAMPLE, out, forced);
        String second = Repository.hash(out.resolve(Repository.WEIGHTS));
        assertFalse(second.equals(Repository.SAMPLE_HASH));
        Files.writeString(out.resolve("mine.txt"), "mine");
        MergeException mine = assertThrows(MergeException.class, () -> merge(engine, Repository.SAMPLE, out, forced));
        assertTrue(mine.kind().equals("output") && mine.detail().contains("mine.txt"), mine.detail());
        assertEquals(second, Repository.hash(out.resolve(Repository.WEIGHTS)));
        assertEquals(List.of("out"), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void anOutputIsNeitherAnInputNorInOne(Engine engine) throws IOException {
        Path run = folder.resolve("run");
        Repository.copy(Repository.SAMPLE, run);
        Map<String, String> before = Repository.state(run);
        for (String inside : new String[] {"checkpoint-1000/out", "checkpoint-1000"}) {
            MergeException error = assertThrows(
                    MergeException.class, () -> merge(engine, run, run.resolve(inside), Options.defaults().with("force", true)));
            assertEquals("output", error.kind(), error.getMessage());
        }
        assertEquals(before, Repository.state(run));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void fiveWrongInputsAreRefusedWithAllFacts(Engine engine) throws IOException {
        Path missing = folder.resolve("missing");
        MergeException error = failure(engine, missing, Options.defaults());
        assertEquals(List.of("input", missing.toString(), "does not exist"), List.of(error.kind(), error.file(), error.detail()));

        Path torn = folder.resolve("torn");
        Repository.copy(Repository.SAMPLE, torn);
        Path weights = torn.resolve("checkpoint-1000").resolve(Repository.WEIGHTS);
        byte[] bytes = Files.readAllBytes(weights);
        Files.write(weights, java.util.Arrays.copyOf(bytes, bytes.length / 2));
        error = failure(engine, weights, Options.defaults());
        assertEquals(List.of("header", weights.toString()), List.of(error.kind(), error.file()));

        // a word that is not a number
        bytes[bytes.length - 1] = 0x7e;
        bytes[bytes.length - 2] = 1;
        Files.write(weights, bytes);
        error = failure(engine, torn, Options.defaults());
        assertEquals("non-finite", error.kind());
        assertEquals(torn.resolve("checkpoint-1000").toString(), error.file());
        assertTrue(error.tensor().startsWith("base_model."), error.tensor());
        assertTrue(error.getMessage().contains(error.tensor()) && error.getMessage().contains(error.file()));

        error = failure(engine, Repository.SAMPLE, Options.defaults().with("metric", "no_such"));
        assertEquals("metric", error.kind());

        error = failure(engine, Repository.SAMPLE, Options.defaults().with("no_such", 1));
        assertEquals("usage", error.kind());

        assertEquals(List.of("torn"), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void whatLiesBesideTheWeightsComesAlong(Engine engine) throws IOException {
        Path run = folder.resolve("run");
        Repository.copy(Repository.SAMPLE, run);
        Files.writeString(run.resolve("checkpoint-1000/tokenizer.json"), "{\"a\": 1}");
        Report report = merge(engine, run, folder.resolve("out"), Options.defaults());
        assertEquals("{\"a\": 1}", Files.readString(folder.resolve("out/tokenizer.json")));
        assertEquals(List.of("adapter_config.json", "tokenizer.json"), report.companions().stream().map(Report.HashedFile::name).toList());
        assertEquals("../run/checkpoint-750", report.inputs().get(0).path());
    }

    @ParameterizedTest
    @MethodSource("engines")
    void verifyFindsWhatWasChangedAddedOrLost(Engine engine) throws IOException {
        Path run = folder.resolve("run");
        Path out = folder.resolve("out");
        Repository.copy(Repository.SAMPLE, run);
        merge(engine, run, out, Options.defaults());
        Verified good = engine.verify(out);
        assertTrue(good.isGood() && good.inputs().size() == 5, good.toString());

        Files.writeString(out.resolve("notes.md"), "mine");
        assertTrue(engine.verify(out).isGood(), "what no program loads does not matter");
        Files.writeString(out.resolve("extra.safetensors"), "x");
        Verified foreign = engine.verify(out);
        assertEquals(List.of("foreign", "beside"), foreign.others().stream().map(Verified.Checked::state).toList());
        assertFalse(foreign.isGood());
        Files.delete(out.resolve("extra.safetensors"));

        Files.writeString(out.resolve("adapter_config.json"), "{}");
        assertEquals("changed", engine.verify(out).companions().get(0).state());
        Files.delete(run.resolve("checkpoint-1000").resolve(Repository.WEIGHTS));
        Verified lost = engine.verify(out);
        assertNull(lost.remade());
        assertEquals("missing", lost.inputs().get(4).state());
        MergeException none = assertThrows(MergeException.class, () -> engine.verify(run));
        assertEquals(List.of("input", run.toString(), "holds no mwa-report.json"), List.of(none.kind(), none.file(), none.detail()));
        Path nothing = folder.resolve("nothing");
        none = assertThrows(MergeException.class, () -> engine.verify(nothing));
        assertEquals(List.of("input", nothing.toString(), "does not exist"), List.of(none.kind(), none.file(), none.detail()));

        Path place = out.resolve("mwa-report.json");
        Files.writeString(place, Files.readString(place).replaceFirst("\"mwa\": \"0\\.", "\"mwa\": \"9."));
        MergeException later = assertThrows(MergeException.class, () -> engine.verify(out));
        assertTrue(later.detail().startsWith("was written by mwa 9."), later.detail());
        assertEquals(List.of("input", place.toString()), List.of(later.kind(), later.file()));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void verifyFindsMomentsWhereverTheyLie(Engine engine) throws IOException {
        Path run = folder.resolve("run");
        Path out = folder.resolve("out");
        Path first = folder.resolve("50.pt");
        Path second = folder.resolve("100.pt");
        Files.createDirectories(run);
        for (String name : List.of("checkpoint-50", "checkpoint-100")) {
            Repository.copy(Repository.ROOT.resolve("host/tests/cli/data/trained").resolve(name), run.resolve(name));
        }
        Files.move(run.resolve("checkpoint-50/optimizer.pt"), first);
        Files.move(run.resolve("checkpoint-100/optimizer.pt"), second);
        merge(engine, run, out, Options.defaults().with("method", "ota").with("select", "all").moments(first.toString(), second.toString()));
        Verified good = engine.verify(out);
        assertTrue(good.isGood() && good.inputs().size() == 4, good.toString());
        assertEquals(first.toString(), good.inputs().get(1).path());

        Path place = out.resolve("mwa-report.json");
        String text = Files.readString(place);
        Files.writeString(place, text.replaceFirst("\"" + Repository.WEIGHTS + "\"", "\"../../50.pt\""));
        MergeException forged = assertThrows(MergeException.class, () -> engine.verify(out));
        assertEquals("names `../../50.pt`, which is not a file in the folder", forged.detail());
        Files.writeString(place, text);
        Files.delete(second);
        assertEquals("missing", engine.verify(out).inputs().get(3).state());
    }

    @Test
    void verifyRefusesWhatOnlyTheProgramMakesAgain() throws IOException {
        Engine engine = Engine.chicory();
        Path out = folder.resolve("out");
        merge(engine, Repository.SAMPLE, out, Options.defaults().with("last", 2));
        Path place = out.resolve("mwa-report.json");
        String text = Files.readString(place);
        String round = "'round': {'rule': 'fedavg', 'discount': 'constant', 'rate': 1.0, 'momentum': 0.0, 'clients': 2, 'samples': 60.0";
        String sums = "was made by mwa aggregate with exact sums (--partial)";
        Map<String, String> said = Map.of(
                "'format': 'gguf'", "was made by mwa merge --format",
                "'folded': {'modules': 28, 'changed': 28, 'replaced': 0}", "was made by mwa apply",
                "'extracted': {'base': 'base', 'rank': '8', 'modules': 28}", "was made by mwa extract",
                // what was recovered lies in several places
                "'adapter': '../lost', 'recovered': {'model': '../lost', 'lost': 'layers.1', 'tensors': 9}", "was made by mwa recover",
                round + ", 'server': {'kind': 'adam', 'rate': 0.1}}", "was made by mwa aggregate --server",
                round + ", 'partials': 'summed'}", sums,
                round + ", 'partials': 'finished'}", sums,
                round + ", 'later': 1}", "says `round.later`",
                "'later': {}", "says `later`");
        for (Map.Entry<String, String> each : said.entrySet()) {
            Files.writeString(place, with(text, each.getKey()));
            MergeException error = assertThrows(MergeException.class, () -> engine.verify(out), each.getKey());
            assertEquals(List.of("usage", place.toString()), List.of(error.kind(), error.file()), error.detail());
            assertTrue(error.detail().startsWith(each.getValue() + ", which this engine does not"), error.detail());
            assertTrue(error.help().startsWith("verify it with the program: mwa verify " + out), error.help());
        }
        Files.writeString(place, text.replaceFirst("\"scheme\"", "\"later\": 1, \"scheme\""));
        assertTrue(assertThrows(MergeException.class, () -> engine.verify(out)).detail().startsWith("says `weighting.later`"));
        Files.writeString(place, text.replaceFirst("\"path\": \"", "\"path\": \"s3://bucket/run\", \"x\": \""));
        assertTrue(assertThrows(MergeException.class, () -> engine.verify(out)).detail().contains("in a store, such as s3://bucket/run"));
        // what is nothing, and a round that a session makes again
        for (String more : List.of("'format': null", round + ", 'server': null, 'dropped': []}")) {
            Files.writeString(place, with(text, more));
            assertEquals(true, engine.verify(out).remade(), more);
        }
    }

    /** A report that says more. */
    private static String with(String report, String more) {
        return "{" + more.replace('\'', '"') + "," + report.substring(1);
    }

    @ParameterizedTest
    @MethodSource("engines")
    void whatIsNothingIsRefusedByItsName(Engine engine) throws IOException {
        Path out = folder.resolve("out");
        List<Path> run = List.of(Repository.SAMPLE);
        Options options = Options.defaults();
        Map<String, Runnable> nulls = Map.of(
                "run", () -> Mwa.merge((Path) null, out),
                "out", () -> engine.merge(run, null, options, QUIET),
                "inputs", () -> engine.merge(null, out, options, QUIET),
                "options", () -> engine.weights(run, null),
                "progress", () -> engine.merge(run, out, options, null),
                "path", () -> engine.inspect(null, options),
                "folder", () -> engine.verify(null),
                "source", () -> Mwa.merge(null, List.of("run"), out, options, QUIET),
                "a path is null", () -> engine.merge(java.util.Arrays.asList(Repository.SAMPLE, null), out, options, QUIET));
        nulls.forEach((name, call) -> assertEquals(name, assertThrows(NullPointerException.class, call::run, name).getMessage()));
        Path empty = Path.of("");
        for (Runnable call : List.<Runnable>of(
                () -> engine.merge(List.of(), out, options, QUIET),
                () -> engine.merge(List.of(Repository.SAMPLE, empty), out, options, QUIET),
                () -> engine.merge(run, empty, options, QUIET),
                () -> engine.weights(List.of(empty), options),
                () -> engine.inspect(empty, options),
                () -> engine.verify(empty))) {
            assertEquals("usage", assertThrows(MergeException.class, call::run).kind());
        }
        assertEquals(List.of(), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void aNumberThatIsNoneIsRefusedByItsOption(Engine engine) {
        Options options = Options.defaults();
        Map<String, Options> given = Map.of(
                "option penalty: NaN", options.penalty(Double.NaN),
                "option ema_decay: NaN", options.emaDecay(Double.NaN),
                "option weights: Infinity", options.weights(1, Double.POSITIVE_INFINITY),
                "option weights: -Infinity", options.weights(Double.NEGATIVE_INFINITY, 1));
        given.forEach((says, each) -> {
            for (MergeException error : List.of(
                    failure(engine, Repository.SAMPLE, each),
                    assertThrows(MergeException.class, () -> engine.weights(List.of(Repository.SAMPLE), each)))) {
                assertEquals(List.of("usage", says + " does not fit; it must be a finite number"), List.of(error.kind(), error.detail()));
            }
        });
    }

    @ParameterizedTest
    @MethodSource("engines")
    void verifyMergesProductsAgain(Engine engine) {
        for (Options options : List.of(Options.defaults().with("rank", 4), Options.defaults().with("rank", "auto").with("energy", 0.9))) {
            Path out = folder.resolve("out" + options.values().size());
            merge(engine, Repository.SAMPLE, out, options.with("space", "product").with("last", 3));
            assertTrue(engine.verify(out).isGood());
        }
    }

    @ParameterizedTest
    @MethodSource("engines")
    void weightsAreThoseOfTheMerge(Engine engine) {
        Report weights = engine.weights(List.of(Repository.SAMPLE), Options.defaults());
        Report merged = merge(engine, Repository.SAMPLE, folder.resolve("out"), Options.defaults());
        assertEquals(merged.inputs().stream().map(Report.Input::weight).toList(), weights.inputs().stream().map(Report.Input::weight).toList());
        assertTrue(weights.outputs().isEmpty());
    }

    @ParameterizedTest
    @MethodSource("engines")
    void whatProgressThrowsStopsTheMerge(Engine engine) throws IOException {
        IllegalStateException enough = new IllegalStateException("enough");
        Throwable thrown = assertThrows(IllegalStateException.class, () -> engine.merge(
                List.of(Repository.SAMPLE), folder.resolve("new/out"), Options.defaults(), (done, total) -> {
                    throw enough;
                }));
        assertSame(enough, thrown);
        assertEquals(List.of(), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void aCancelledMergeLeavesNothing(Engine engine) throws Exception {
        // libmwa may be done before it is cancelled: then with more to do
        for (int layers : List.of(4, 16, 48)) {
            Path place = Files.createDirectory(folder.resolve("of-" + layers));
            LargeRun.make(place.resolve("run"), 4, layers);
            CountDownLatch begun = new CountDownLatch(1);
            Options options = Options.defaults().with("residual", "off");
            CompletableFuture<Report> merge = engine.mergeAsync(List.of(place.resolve("run")), place.resolve("new/out"), options, (done, total) -> begun.countDown());
            begun.await();
            if (!merge.cancel(true)) continue;
            assertThrows(CancellationException.class, merge::join);
            assertEquals(List.of("run"), Repository.names(place));
            return;
        }
        fail("each merge was quicker");
    }

    @ParameterizedTest
    @MethodSource("engines")
    void anInterruptStopsTheMerge(Engine engine) throws IOException {
        MergeException stopped = assertThrows(MergeException.class, () -> engine.merge(
                List.of(Repository.SAMPLE), folder.resolve("out"), Options.defaults(), (done, total) -> Thread.currentThread().interrupt()));
        assertTrue(Thread.interrupted());
        assertEquals("stopped", stopped.kind());
        assertEquals(List.of(), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void aFutureTellsWhatWentWrong(Engine engine) {
        CompletableFuture<Report> merge =
                engine.mergeAsync(List.of(folder.resolve("missing")), folder.resolve("out"), Options.defaults(), QUIET);
        MergeException error = (MergeException) assertThrows(java.util.concurrent.CompletionException.class, merge::join).getCause();
        assertEquals("input", error.kind());
        assertFalse(merge.cancel(true));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void aClosedEngineSaysSo(Engine engine) {
        engine.close();
        assertEquals("usage", failure(engine, Repository.SAMPLE, Options.defaults()).kind());
    }

    @Test
    void aSourceOfOnesOwnGivesTheSameBytes() throws IOException {
        Repository.Memory memory = new Repository.Memory();
        try (Stream<Path> files = Files.walk(Repository.SAMPLE)) {
            for (Path file : files.filter(Files::isRegularFile).toList()) {
                memory.files.put("my/run/" + Repository.SAMPLE.relativize(file), Files.readAllBytes(file));
            }
        }
        Report report = Mwa.merge(memory, List.of("my/run"), folder.resolve("out"), Options.defaults(), QUIET);
        assertEquals(Repository.SAMPLE_HASH, report.outputs().get(0).blake3());
        assertEquals("my/run/checkpoint-750", report.inputs().get(0).name());
        Path out = folder.resolve("out");
        assertEquals("missing", Engine.chicory().verify(out).inputs().get(0).state());
        Files.createDirectory(out.resolve("my"));
        Files.createSymbolicLink(out.resolve("my/run"), Repository.SAMPLE);
        assertTrue(Engine.chicory().verify(out).isGood());
        Files.delete(out.resolve("my/run"));
    }

    @Test
    void aSourceThatFailsIsAnErrorOfItsFile() throws IOException {
        Repository.Memory memory = new Repository.Memory() {
            @Override
            public int read(String path, long position, ByteBuffer bytes) throws IOException {
                throw new IOException("the network is down");
            }
        };
        memory.files.put("a.safetensors", new byte[100]);
        MergeException error = assertThrows(
                MergeException.class, () -> Mwa.merge(memory, List.of("a.safetensors"), folder.resolve("out"), Options.defaults(), QUIET));
        assertEquals(List.of("io", "a.safetensors", "cannot read it: the network is down"), List.of(error.kind(), error.file(), error.detail()));
    }

    @Test
    void anInputThatChangesMeanwhileIsNoticed() throws IOException {
        Path run = folder.resolve("run");
        Repository.copy(Repository.SAMPLE, run);
        Path weights = run.resolve("checkpoint-1000").resolve(Repository.WEIGHTS);
        MergeException error = assertThrows(MergeException.class, () -> Engine.chicory().merge(List.of(run), folder.resolve("out"), Options.defaults(), (done, total) -> {
            try {
                Files.setLastModifiedTime(weights, FileTime.fromMillis(done));
            } catch (IOException failed) {
                throw new java.io.UncheckedIOException(failed);
            }
        }));
        assertEquals(List.of("io", weights.toString(), "changed while it was read"), List.of(error.kind(), error.file(), error.detail()));
        assertEquals(List.of("run"), Repository.names(folder));
    }

    @ParameterizedTest
    @MethodSource("engines")
    void inspectSaysWhatLiesThere(Engine engine) {
        Inspection found = engine.inspect(Repository.SAMPLE, Options.defaults());
        Inspection.Summary last = found.checkpoints().get(9);
        assertEquals(List.of(1000L, "LORA", List.of(8L)), List.of(last.step(), last.method(), last.ranks()));
        assertTrue(
                found.metrics().stream().anyMatch(it -> it.name().equals("eval_loss") && it.covered() == 10 && it.separation().separates()),
                found.metrics().toString());
    }

    @Test
    void theBestEngineNamesItself() {
        boolean mayBeNative = Runtime.version().feature() >= 22;
        assertTrue(Mwa.engine().startsWith("Chicory ") || mayBeNative && Mwa.engine().startsWith("libmwa at "), Mwa.engine());
    }

    @Test
    void aLibraryThatIsNotThereIsNamed() {
        MergeException error = assertThrows(MergeException.class, () -> Engine.libmwa(Path.of("/no/such/libmwa.so")));
        assertEquals(List.of("device", "/no/such/libmwa.so"), List.of(error.kind(), error.file()));
    }
}

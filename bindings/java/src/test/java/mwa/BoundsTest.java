package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Memory: bounded while much is merged, and flat while much fails. */
final class BoundsTest {
    @TempDir
    Path folder;

    /** A virtual machine of its own, with a heap of 200 MB, for eight files of 80 MB. */
    @Test
    void aRunOfEightTimesEightyMegabytesFitsIntoTwoHundred() throws Exception {
        LargeRun.make(folder.resolve("run"), 8, 32);
        Process merge = new ProcessBuilder(
                        Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                        "-Xmx200m",
                        "-cp",
                        System.getProperty("surefire.test.class.path", System.getProperty("java.class.path")),
                        BoundsTest.class.getName(),
                        folder.resolve("run").toString(),
                        folder.resolve("out").toString())
                .inheritIO()
                .start();
        assertTrue(merge.waitFor(10, TimeUnit.MINUTES));
        assertEquals(0, merge.exitValue());
        assertEquals(80_000_000, Files.size(folder.resolve("out").resolve(Repository.WEIGHTS)), 100_000);
    }

    public static void main(String... paths) {
        Options options = Options.defaults().with("last", 8).with("residual", "off").with("threads", 2);
        Report report = Engine.chicory().merge(List.of(Path.of(paths[0])), Path.of(paths[1]), options, (done, total) -> {});
        if (report.inputs().size() != 8) throw new AssertionError(report);
    }

    @Test
    void tenThousandFailuresTakeNoMemory() throws IOException {
        Path file = Repository.ROOT.resolve("tests/vectors/hostile/truncated-data.safetensors");
        assertTrue(Files.exists(file));
        try (Engine engine = Engine.chicory()) {
            long before = 0;
            for (int i = 0; i < 10_000; i++) {
                assertThrows(MergeException.class, () -> engine.merge(List.of(file), folder.resolve("out"), Options.defaults(), (done, total) -> {}));
                if (i == 1000) before = used();
            }
            long more = used() - before;
            assertTrue(more < 2_000_000, more + " bytes more");
        }
        assertEquals(List.of(), Repository.names(folder));
    }

    /** Bytes of the heap that are in use. */
    private static long used() {
        for (int i = 0; i < 3; i++) System.gc();
        Runtime runtime = Runtime.getRuntime();
        return runtime.totalMemory() - runtime.freeMemory();
    }
}

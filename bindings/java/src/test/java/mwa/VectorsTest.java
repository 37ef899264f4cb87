package mwa;

import static org.junit.jupiter.api.Assertions.assertNull;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/** Every weighted sum, every merge in product space and every hostile file: the bytes or the failure that is written down. */
final class VectorsTest {
    @TestFactory
    Stream<DynamicTest> vectors(@TempDir Path folder) throws Exception {
        List<Vectors.Case> cases = new Vectors(folder).all();
        assertTrue(cases.size() > 250, "only " + cases.size() + " vectors");
        return cases.stream().map(it -> DynamicTest.dynamicTest(it.name(), () -> assertNull(it.body().run())));
    }
}

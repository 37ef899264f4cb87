package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** {@link Report} has all that reports say. */
final class ReportTest {
    private static final Path TRAINED = Repository.ROOT.resolve("host/tests/cli/data/trained");

    @Test
    void nothingThatIsWrittenDownIsLost() throws IOException {
        JsonObject golden = Repository.json(Repository.ROOT.resolve("tests/situations/golden.json")).getAsJsonObject();
        int reports = 0;
        for (Map.Entry<String, JsonElement> it : golden.entrySet()) {
            if (!(it.getValue().getAsJsonObject().get("report") instanceof JsonObject report)) continue;
            assertEquals(said(report), said(Json.report(report.deepCopy())), it.getKey());
            reports++;
        }
        assertTrue(reports > 30, "only " + reports + " reports");
    }

    @Test
    void nothingOfAMergeIsLost(@TempDir Path folder) throws IOException {
        Options all = Options.defaults();
        Options grafted = all.method(Options.Method.FFG).base(TRAINED.resolve("checkpoint-50").toString());
        List<Options> options = List.of(
                all.shardSize("300KB").residual(Options.Residual.SKETCH),
                all.method(Options.Method.TIES).base(Repository.SAMPLE.resolve("checkpoint-550").toString()).last(2).scale(0.5)
                        .densityPer(Options.DensityPer.TENSOR),
                grafted,
                grafted.densityPer(Options.DensityPer.TENSOR));
        for (Options each : options) {
            Path out = folder.resolve(String.valueOf(options.indexOf(each)));
            Path run = "ffg".equals(each.values().get("method")) ? TRAINED.resolve("checkpoint-100") : Repository.SAMPLE;
            Report report = Engine.chicory().merge(List.of(run), out, each, (done, total) -> {});
            assertEquals(said(Repository.json(out.resolve("mwa-report.json"))), said(report), each.toString());
        }
    }

    private static JsonElement said(Report report) {
        return said(Json.object(Json.bytes(report)));
    }

    /** Without what is nothing: a record's null, or its empty list, stands for what is not there. */
    private static JsonElement said(JsonElement json) {
        JsonElement plain = Repository.plain(json);
        clear(plain);
        return plain;
    }

    private static void clear(JsonElement json) {
        if (json.isJsonArray()) json.getAsJsonArray().forEach(ReportTest::clear);
        if (!(json instanceof JsonObject object)) return;
        object.entrySet().removeIf(member -> isNothing(member.getValue()));
        object.entrySet().forEach(member -> clear(member.getValue()));
    }

    private static boolean isNothing(JsonElement json) {
        return json.isJsonNull() || json.isJsonArray() && json.getAsJsonArray().isEmpty();
    }
}

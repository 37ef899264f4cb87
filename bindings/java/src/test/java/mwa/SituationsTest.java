package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.DynamicTest;
import org.junit.jupiter.api.TestFactory;
import org.junit.jupiter.api.io.TempDir;

/** Every situation, from folder to folder: the same files, report and notes as native, or the same refusal. */
final class SituationsTest {
    private static final Path SITUATIONS = Repository.ROOT.resolve("tests/situations");

    @TestFactory
    List<DynamicTest> situations(@TempDir Path folder) throws IOException {
        JsonObject all = Repository.json(SITUATIONS.resolve("situations.json")).getAsJsonObject();
        JsonObject golden = Repository.json(SITUATIONS.resolve("golden.json")).getAsJsonObject();
        List<DynamicTest> tests = new ArrayList<>();
        for (Engine engine : Repository.engines()) {
            for (int threads : new int[] {1, 3}) {
                for (JsonElement element : all.getAsJsonArray("situations")) {
                    JsonObject it = element.getAsJsonObject();
                    String name = it.get("situation").getAsString();
                    Path place = folder.resolve(String.valueOf(tests.size()));
                    tests.add(DynamicTest.dynamicTest(name + ", " + threads + " threads, " + engine.name(), () -> {
                        layOut(it, all, place);
                        assertEquals(Repository.plain(inOurWords(golden.get(name))), Repository.plain(outcome(engine, it, place, threads)));
                    }));
                }
            }
        }
        return tests;
    }

    /** What golden.json has, with options as this package calls them. */
    private static JsonElement inOurWords(JsonElement expected) {
        if (!(expected instanceof JsonObject answer) || !answer.has("error")) return expected;
        JsonObject error = answer.getAsJsonObject("error");
        for (String part : List.of("detail", "help")) error.addProperty(part, Speech.spoken(Json.text(error, part)));
        return expected;
    }

    private static void layOut(JsonObject it, JsonObject all, Path folder) throws IOException {
        for (Map.Entry<String, JsonElement> file : it.getAsJsonObject("files").entrySet()) {
            JsonObject blob = all.getAsJsonArray("blobs").get(file.getValue().getAsInt()).getAsJsonObject();
            byte[] bytes = blob.has("text")
                    ? blob.get("text").getAsString().getBytes(StandardCharsets.UTF_8)
                    : Base64.getDecoder().decode(blob.get("base64").getAsString());
            Path path = folder.resolve(file.getKey());
            Files.createDirectories(path.getParent());
            Files.write(path, bytes);
        }
        Files.createDirectories(folder);
    }

    /** What an engine answered, as golden.json has it. */
    private static JsonElement outcome(Engine engine, JsonObject it, Path folder, int threads) throws IOException {
        Path out = folder.resolve("out");
        List<Path> paths = new ArrayList<>();
        it.getAsJsonArray("paths").forEach(path -> paths.add(folder.resolve(path.getAsString())));
        Options options = Options.defaults().with("threads", threads);
        for (Map.Entry<String, JsonElement> option : it.getAsJsonObject("options").entrySet()) {
            // the rules and a base lie among the files
            boolean isPath = option.getKey().equals("weights_file") || option.getKey().equals("base");
            Object value = isPath ? folder.resolve(option.getValue().getAsString()).toString() : option.getValue();
            options = options.with(option.getKey(), value);
        }
        JsonObject found = new JsonObject();
        try {
            engine.merge(paths, out, options, (done, total) -> {});
            JsonObject files = new JsonObject();
            for (String name : Repository.names(out)) {
                if (!name.equals("mwa-report.json")) files.addProperty(name, Repository.sha256(Files.readAllBytes(out.resolve(name))));
            }
            found.add("report", Repository.json(out.resolve("mwa-report.json")));
            found.getAsJsonObject("report").remove("mwa");
            found.add("files", files);
        } catch (MergeException error) {
            assertFalse(Files.exists(out), "an error left an output behind");
            JsonObject facts = new JsonObject();
            facts.addProperty("kind", error.kind());
            facts.addProperty("file", error.file());
            facts.addProperty("tensor", error.tensor());
            facts.addProperty("detail", error.detail());
            facts.addProperty("help", error.help());
            found.add("error", facts);
        }
        assertEquals(List.of(), Repository.names(folder).stream().filter(name -> name.startsWith(".")).toList());
        return JsonParser.parseString(found.toString().replace(folder + "/", ""));
    }
}

package mwa;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * All vectors, through files in memory; {@code main} runs them with the sample run, and prints what failed and one line of JSON,
 * as tests/runner.mjs does.
 */
final class Vectors {
    /** A vector, and what is wrong with what came out; null if nothing. */
    record Case(String name, Body body) {}

    interface Body {
        String run() throws Exception;
    }

    private static final Path VECTORS = Repository.ROOT.resolve("tests/vectors");

    // small pieces, so that tensors and modules are cut
    private final Chicory engine = new Chicory(1000);
    private final Path folder;
    private final MessageDigest outputs = MessageDigest.getInstance("SHA-256");

    Vectors(Path folder) throws Exception {
        this.folder = folder;
    }

    List<Case> all() throws IOException {
        JsonObject index = Repository.json(VECTORS.resolve("index.json")).getAsJsonObject();
        List<Case> cases = new ArrayList<>();
        for (JsonElement sum : index.getAsJsonArray("cases")) cases.add(sum(sum.getAsJsonObject()));
        JsonObject hashes = Repository.json(VECTORS.resolve("product/sha256.json")).getAsJsonObject();
        for (JsonElement product : Repository.json(VECTORS.resolve("product/index.json")).getAsJsonArray()) {
            JsonObject it = product.getAsJsonObject();
            cases.add(product(it, hashes, "inputs", Map.of()));
            cases.add(product(it, hashes, "1", Map.of("rank", 1)));
            cases.add(product(it, hashes, "full", Map.of("rank", "full")));
            cases.add(product(it, hashes, "energy 0.9", Map.of("rank", "auto", "energy", 0.9)));
        }
        for (JsonElement file : index.getAsJsonArray("hostile")) cases.add(hostile(file.getAsJsonObject()));
        return cases;
    }

    private Case sum(JsonObject it) {
        String name = it.get("case").getAsString();
        Map<String, Object> options = new LinkedHashMap<>();
        options.put("weights", numbers(it.getAsJsonArray("weights")));
        options.put("dtype", it.get("dtype").getAsString());
        options.put("allow_cross_run", true);
        options.put("allow_non_finite", "allow".equals(Json.text(it, "non_finite")));
        options.put("rewrite", true);
        Repository.Memory files = new Repository.Memory();
        List<String> paths = new ArrayList<>();
        return new Case(name, () -> {
            for (JsonElement input : it.getAsJsonArray("inputs")) {
                paths.add("input " + paths.size());
                files.files.put(paths.get(paths.size() - 1), read(input.getAsString()));
            }
            // what the plan can do, but no program would ask for
            if (name.equals("no-tensors")) return failure(files, paths, options, "input", "no tensors", "");
            if (it.has("error")) return failure(files, paths, options, Json.text(it, "error"), "", text(it, "tensor"));
            byte[] merged = merge(files, paths, options);
            outputs.update(merged);
            String output = it.get("output").getAsString();
            return Repository.tensors(merged).equals(Repository.tensors(read(output))) ? null : "differs from " + output;
        });
    }

    private Case product(JsonObject it, JsonObject hashes, String asked, Map<String, Object> rank) {
        String name = it.get("name").getAsString();
        String title = name + " at rank " + asked;
        return new Case(title, () -> {
            Map<String, Object> options = new LinkedHashMap<>(rank);
            options.put("weights", numbers(it.getAsJsonArray("weights")));
            options.put("space", "product");
            Repository.Memory files = new Repository.Memory();
            List<String> paths = new ArrayList<>();
            for (JsonElement config : it.getAsJsonArray("configs")) {
                String path = "input " + paths.size();
                files.files.put(path + "/" + Repository.WEIGHTS, read("product/" + name + "-" + paths.size() + ".safetensors"));
                files.files.put(path + "/adapter_config.json", config.toString().getBytes());
                paths.add(path);
            }
            byte[] merged = merge(files, paths, options);
            outputs.update(merged);
            String found = Repository.sha256(merged);
            String expected = hashes.get(title).getAsString();
            return found.equals(expected) ? null : found + ", expected " + expected;
        });
    }

    private Case hostile(JsonObject it) {
        String name = it.get("file").getAsString();
        Map<String, Object> options = Map.of("weights", List.of(1), "dtype", "f32", "allow_non_finite", true);
        return new Case(it.has("case") ? it.get("case").getAsString() : name, () -> {
            Repository.Memory files = new Repository.Memory();
            files.files.put(name, read(name));
            if (it.has("error")) {
                return failure(files, List.of(name), options, Json.text(it, "error"), text(it, "says"), text(it, "tensor"));
            }
            if (it.getAsJsonArray("tensors").isEmpty()) return failure(files, List.of(name), options, "input", "no tensors", "");
            merge(files, List.of(name), options);
            return null;
        });
    }

    /** Merge checkpoints of one file each; the bytes of the output. */
    private byte[] merge(Source files, List<String> paths, Map<String, Object> options) throws IOException {
        Path out = folder.resolve("out");
        try {
            Options wanted = Options.defaults();
            for (Map.Entry<String, Object> option : options.entrySet()) wanted = wanted.with(option.getKey(), option.getValue());
            Report report = engine.merge(files, paths, out, wanted, (done, total) -> {}, () -> false);
            return Files.readAllBytes(out.resolve(report.outputs().get(0).name()));
        } finally {
            Staging.removeQuietly(out);
        }
    }

    /** Expect a failure of a kind that says and names what it should. */
    private String failure(Source files, List<String> paths, Map<String, Object> options, String kind, String says, String tensor)
            throws IOException {
        try {
            merge(files, paths, options);
        } catch (MergeException error) {
            String all = error.getMessage() + " " + error.help();
            if (!error.kind().equals(kind)) return "failed with " + error.kind() + " (" + all + "), expected " + kind;
            boolean isSaid = all.toLowerCase().contains(says.toLowerCase()) && all.contains(tensor);
            List<String> left = Repository.names(folder);
            return isSaid && left.isEmpty() ? null : "says " + all + ", expected " + says + " " + tensor + "; left " + left;
        }
        return "did not fail, expected " + kind;
    }

    private static String text(JsonObject it, String name) {
        return it.has(name) ? it.get(name).getAsString() : "";
    }

    private static List<Double> numbers(JsonArray array) {
        List<Double> numbers = new ArrayList<>();
        array.forEach(number -> numbers.add(number.getAsDouble()));
        return numbers;
    }

    private static byte[] read(String name) throws IOException {
        return Files.readAllBytes(VECTORS.resolve(name));
    }

    public static void main(String... arguments) throws Exception {
        Path folder = Files.createTempDirectory("mwa-vectors-");
        Vectors vectors = new Vectors(folder);
        int passed = 0;
        int failed = 0;
        for (Case it : vectors.all()) {
            String wrong;
            try {
                wrong = it.body().run();
            } catch (Exception error) {
                wrong = error.toString();
            }
            if (wrong == null) passed++;
            else {
                failed++;
                System.out.println(it.name() + ": " + wrong);
            }
        }
        long start = System.nanoTime();
        Engine.chicory().merge(List.of(Repository.SAMPLE), folder.resolve("sample"), Options.defaults(), (done, total) -> {});
        double seconds = (System.nanoTime() - start) / 1e9;
        Map<String, Object> line = new LinkedHashMap<>();
        line.put("passed", passed);
        line.put("failed", failed);
        line.put("skipped", 0);
        line.put("vectors", HexFormat.of().formatHex(vectors.outputs.digest()));
        line.put("sample", Repository.hash(folder.resolve("sample").resolve(Repository.WEIGHTS)));
        line.put("seconds", seconds);
        System.out.println(new String(Json.bytes(line)));
        Staging.removeQuietly(folder);
        System.exit(failed == 0 ? 0 : 1);
    }
}

package mwa;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonNull;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.stream.Stream;

/** What the tests take from the repository, and how they look at files. */
final class Repository {
    static final Path ROOT = root(Path.of("").toAbsolutePath());
    static final Path SAMPLE = ROOT.resolve("examples/sample-run");
    /** What every runtime makes of the sample run; the README shows it. */
    static final String SAMPLE_HASH = "7e2717852355ddf7431ccf51a06072d54e7d782248adc2a92c980644e04e9f2b";
    static final String WEIGHTS = "adapter_model.safetensors";

    private Repository() {}

    private static Path root(Path from) {
        return Files.exists(from.resolve("tests/vectors/index.json")) ? from : root(from.getParent());
    }

    static JsonElement json(Path path) throws IOException {
        return JsonParser.parseString(Files.readString(path));
    }

    /** Numbers as numbers: {@code 1} and {@code 1.0} are the same. */
    static JsonElement plain(JsonElement json) {
        if (json == null) return JsonNull.INSTANCE;
        if (json instanceof JsonPrimitive it && it.isNumber()) return new JsonPrimitive(it.getAsDouble());
        if (json.isJsonArray()) {
            var list = new JsonArray();
            json.getAsJsonArray().forEach(item -> list.add(plain(item)));
            return list;
        }
        if (!json.isJsonObject()) return json;
        JsonObject object = new JsonObject();
        json.getAsJsonObject().entrySet().forEach(entry -> object.add(entry.getKey(), plain(entry.getValue())));
        return object;
    }

    /** The engines that are here: Chicory, and libmwa where the property names it. */
    static List<Engine> engines() {
        List<Engine> engines = new ArrayList<>(List.of(Engine.chicory()));
        String library = System.getProperty("mwa.test.library", "");
        if (!library.isEmpty()) engines.add(Engine.libmwa(Path.of(library)));
        return engines;
    }

    static String hash(Path file) throws IOException {
        return Hashes.blake3(file);
    }

    /** SHA-256 of bytes. */
    static String sha256(byte[] bytes) {
        try {
            return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        } catch (NoSuchAlgorithmException error) {
            throw new AssertionError(error);
        }
    }

    /** The names of all that lies in a folder, hidden or not. */
    static List<String> names(Path folder) throws IOException {
        try (Stream<Path> entries = Files.list(folder)) {
            return entries.map(entry -> entry.getFileName().toString()).sorted().toList();
        }
    }

    static void copy(Path from, Path to) throws IOException {
        try (Stream<Path> files = Files.walk(from)) {
            for (Path file : files.toList()) {
                Path copy = to.resolve(from.relativize(file).toString());
                if (Files.isDirectory(file)) Files.createDirectories(copy);
                else Files.copy(file, copy);
            }
        }
    }

    /** Every file in a folder by its hash and its time. */
    static Map<String, String> state(Path folder) throws IOException {
        Map<String, String> state = new TreeMap<>();
        try (Stream<Path> files = Files.walk(folder)) {
            for (Path file : files.toList()) {
                String is = Files.isRegularFile(file, LinkOption.NOFOLLOW_LINKS) ? hash(file) + Files.getLastModifiedTime(file) : "";
                state.put(folder.relativize(file).toString(), is);
            }
        }
        return state;
    }

    /** Tensors by name: dtype, shape and bytes. The layout of a file and its metadata are not compared. */
    static Map<String, String> tensors(byte[] file) {
        int length = Math.toIntExact(ByteBuffer.wrap(file).order(ByteOrder.LITTLE_ENDIAN).getLong());
        String head = new String(file, 8, length, StandardCharsets.UTF_8);
        Map<String, String> tensors = new TreeMap<>();
        JsonParser.parseString(head).getAsJsonObject().entrySet().forEach(entry -> {
            if (entry.getKey().equals("__metadata__")) return;
            var tensor = entry.getValue().getAsJsonObject();
            var range = tensor.getAsJsonArray("data_offsets");
            int start = range.get(0).getAsInt();
            byte[] bytes = java.util.Arrays.copyOfRange(file, 8 + length + start, 8 + length + range.get(1).getAsInt());
            tensors.put(entry.getKey(), tensor.get("dtype") + " " + tensor.get("shape") + " " + sha256(bytes));
        });
        return tensors;
    }

    /** Files in memory, by path. */
    static class Memory implements Source {
        final Map<String, byte[]> files = new LinkedHashMap<>();

        @Override
        public Entry entry(String path) {
            byte[] file = files.get(path);
            if (file != null) return Entry.file(file.length);
            return list(path).isEmpty() ? Entry.MISSING : Entry.FOLDER;
        }

        @Override
        public List<String> list(String folder) {
            String inside = folder.isEmpty() ? "" : folder + "/";
            return files.keySet().stream()
                    .filter(path -> path.startsWith(inside))
                    .map(path -> path.substring(inside.length()).split("/")[0])
                    .distinct()
                    .toList();
        }

        @Override
        public int read(String path, long position, ByteBuffer bytes) throws IOException {
            byte[] file = files.get(path);
            // less than is wanted, as sockets do
            int count = (int) Math.min(Math.min(file.length - position, bytes.remaining()), 10_000);
            bytes.put(file, (int) position, Math.max(count, 0));
            return count;
        }
    }
}

package mwa;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import java.io.BufferedOutputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import java.util.TreeMap;

/** LoRA checkpoints of a Llama with 7 billion parameters, rank 16 in bf16: 80 MB each, filled with noise. */
final class LargeRun {
    private static final Gson GSON = new GsonBuilder().create();
    private static final int R = 16;

    private LargeRun() {}

    /** Make a run with so many checkpoints of so many layers (32 are 80 MB). */
    static void make(Path folder, int checkpoints, int layers) throws IOException {
        Map<String, int[]> tensors = new TreeMap<>();
        for (int layer = 0; layer < layers; layer++) {
            for (String[] module : MODULES) {
                String name = "base_model.model.model.layers." + layer + "." + module[0];
                tensors.put(name + ".lora_A.weight", new int[] {R, Integer.parseInt(module[2])});
                tensors.put(name + ".lora_B.weight", new int[] {Integer.parseInt(module[1]), R});
            }
        }
        Map<String, Object> head = new LinkedHashMap<>(Map.of("__metadata__", Map.of("format", "pt")));
        long end = 0;
        for (Map.Entry<String, int[]> tensor : tensors.entrySet()) {
            int[] shape = tensor.getValue();
            long length = 2L * shape[0] * shape[1];
            head.put(tensor.getKey(), Map.of("dtype", "BF16", "shape", shape, "data_offsets", List.of(end, end + length)));
            end += length;
        }
        byte[] json = GSON.toJson(head).getBytes(StandardCharsets.UTF_8);
        for (int step = 100; step <= checkpoints * 100; step += 100) {
            Path checkpoint = Files.createDirectories(folder.resolve("checkpoint-" + step));
            Files.writeString(checkpoint.resolve("trainer_state.json"), GSON.toJson(log(step)));
            Files.writeString(checkpoint.resolve("adapter_config.json"), GSON.toJson(CONFIG));
            try (OutputStream file = new BufferedOutputStream(Files.newOutputStream(checkpoint.resolve("adapter_model.safetensors")), 1 << 20)) {
                file.write(ByteBuffer.allocate(8).order(ByteOrder.LITTLE_ENDIAN).putLong(json.length).array());
                file.write(json);
                noise(file, step, end);
            }
        }
    }

    private static final String[][] MODULES = {
        {"self_attn.q_proj", "4096", "4096"},
        {"self_attn.k_proj", "4096", "4096"},
        {"self_attn.v_proj", "4096", "4096"},
        {"self_attn.o_proj", "4096", "4096"},
        {"mlp.gate_proj", "11008", "4096"},
        {"mlp.up_proj", "11008", "4096"},
        {"mlp.down_proj", "4096", "11008"},
    };

    private static final Map<String, Object> CONFIG = Map.of(
            "peft_type", "LORA",
            "task_type", "CAUSAL_LM",
            "base_model_name_or_path", "synthetic",
            "r", R,
            "lora_alpha", 2 * R,
            "bias", "none",
            "target_modules", List.of("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"));

    private static Map<String, Object> log(int step) {
        List<Object> history = new ArrayList<>();
        for (int at = 10; at <= step; at += 10) history.add(Map.of("step", at, "loss", 1 + 100.0 / (100 + at)));
        return Map.of("global_step", step, "log_history", history);
    }

    /** Checkpoints of one run share most of it. */
    private static void noise(OutputStream file, int step, long bytes) throws IOException {
        SplittableRandom shared = new SplittableRandom(1);
        SplittableRandom own = new SplittableRandom(step);
        for (long i = 0; i < bytes; i += 2) {
            float value = 0.02f * ((float) shared.nextDouble() - 0.5f + 0.2f * ((float) own.nextDouble() - 0.5f));
            int word = Float.floatToRawIntBits(value) >>> 16;
            file.write(word);
            file.write(word >>> 8);
        }
    }

    public static void main(String... arguments) throws IOException {
        make(Path.of(arguments[0]), 8, 32);
    }
}

package mwa;

import com.sun.management.OperatingSystemMXBean;
import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Measure whole merges beside the native program: {@code Bench RUN MWA LIBRARY ROUNDS OUT}; LIBRARY may be empty.
 *
 * <p>All take turns in one process, after a round to warm up, so that what slows the machine down slows all. Every answer is checked.
 */
final class Bench {
    /** Seconds on the wall and of processor, one of each for a round. */
    private record Samples(List<Double> wall, List<Double> cpu) {}

    private interface Merge {
        void into(Path out) throws Exception;
    }

    public static void main(String... arguments) throws Exception {
        Path run = Path.of(arguments[0]);
        String library = arguments[2];
        Path out = Path.of(arguments[4], "java");
        Map<String, Merge> contenders = new LinkedHashMap<>();
        for (int threads : new int[] {1, 2}) {
            contenders.put("mwa merge, " + told(threads), folder -> program(arguments[1], run, folder, threads));
        }
        List<Engine> engines = new ArrayList<>(List.of(Engine.chicory()));
        if (!library.isEmpty()) engines.add(Engine.libmwa(Path.of(library)));
        for (Engine engine : engines) {
            String name = engine.name().split(" at ")[0];
            for (int threads : new int[] {1, 2}) {
                Options options = Options.defaults().with("select", "all").with("residual", "off").with("threads", threads);
                contenders.put(name + ", " + told(threads), folder -> engine.merge(List.of(run), folder, options, (done, total) -> {}));
            }
        }
        int rounds = Integer.parseInt(arguments[3]);
        Map<String, Samples> samples = new LinkedHashMap<>();
        String hash = null;
        for (int round = 0; round <= rounds; round++) {
            for (Map.Entry<String, Merge> contender : contenders.entrySet()) {
                Staging.removeQuietly(out);
                long start = System.nanoTime();
                double before = cpu();
                contender.getValue().into(out);
                double wall = (System.nanoTime() - start) / 1e9;
                double cpu = cpu() - before;
                String made = Repository.hash(out.resolve(Repository.WEIGHTS));
                if (hash != null && !hash.equals(made)) throw new AssertionError(contender.getKey() + " gave other bytes");
                hash = made;
                Samples own = samples.computeIfAbsent(contender.getKey(), name -> new Samples(new ArrayList<>(), new ArrayList<>()));
                if (round == 0) System.out.printf("first: %s, %.2f s%n", contender.getKey(), wall);
                else {
                    own.wall.add(wall);
                    own.cpu.add(cpu);
                }
            }
        }
        Staging.removeQuietly(out);
        System.out.println("\n| what | median s | processor s | of native with as many threads |\n|---|---|---|---|");
        samples.forEach((name, own) -> {
            List<Double> base = samples.get("mwa merge, " + name.split(", ")[1]).wall;
            List<Double> ratios = new ArrayList<>();
            for (int i = 0; i < base.size(); i++) ratios.add(base.get(i) / own.wall.get(i));
            System.out.printf("| %s | %.2f | %.2f | %.2f |%n", name, median(own.wall), median(own.cpu), median(ratios));
        });
    }

    private static String told(int threads) {
        return threads == 1 ? "one thread" : threads + " threads";
    }

    private static void program(String mwa, Path run, Path out, int threads) throws Exception {
        List<String> command = List.of(
                mwa, "merge", run.toString(), "-o", out.toString(), "--quiet", "--select", "all", "--residual", "off", "--threads", "" + threads);
        int status = new ProcessBuilder(command).inheritIO().start().waitFor();
        if (status != 0) throw new IOException("the native program failed");
    }

    /** Seconds of processor that this process and those that it waited for have used. */
    private static double cpu() throws IOException {
        long own = ((OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
        String stat = Files.readString(Path.of("/proc/self/stat"));
        String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
        // in hundredths, on every Linux
        return own / 1e9 + (Long.parseLong(fields[13]) + Long.parseLong(fields[14])) / 100.0;
    }

    private static double median(List<Double> values) {
        return values.stream().sorted().toList().get(values.size() / 2);
    }
}

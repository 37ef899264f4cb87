package mwa;

import java.nio.file.Path;
import java.util.Collections;
import java.util.List;
import java.util.Objects;

/** What callers give, refused before any work where it is nothing. */
final class Arguments {
    private Arguments() {}

    /** Those of a merge; nulls are named, as Java does. */
    static void merge(List<String> paths, Path out, Options options, Progress progress) {
        Objects.requireNonNull(out, "out");
        options(options);
        Objects.requireNonNull(progress, "progress");
        paths(paths);
        if (out.toString().isEmpty()) throw usage("the output is not the path of a folder", "name a folder that is not there yet");
    }

    /** Options, of which JSON can have all numbers; the core refuses what else does not fit. */
    static void options(Options options) {
        Objects.requireNonNull(options, "options").values().forEach((name, value) -> {
            for (Object number : value instanceof List<?> list ? list : Collections.singletonList(value)) {
                if (!(number instanceof Double it) || Double.isFinite(it)) continue;
                throw usage("option " + name + ": " + it + " does not fit; it must be a finite number", null);
            }
        });
    }

    /** Paths to be read, of which there must be one. */
    static void paths(List<String> paths) {
        if (paths.isEmpty()) throw usage("no path is given", "give at least one path: a run folder, a checkpoint folder or a file");
        for (String path : paths) {
            if (Objects.requireNonNull(path, "a path is null").isEmpty()) {
                String help = "give a run folder, a checkpoint folder or a file; \".\" is the folder where paths begin";
                throw usage("a path is empty: it would be the folder where paths begin", help);
            }
        }
    }

    /** A path to be read, as the core knows it. */
    static String path(Path path, String name) {
        String text = Disk.text(Objects.requireNonNull(path, name));
        paths(List.of(text));
        return text;
    }

    private static MergeException usage(String detail, String help) {
        return new MergeException("usage", null, detail, help);
    }
}

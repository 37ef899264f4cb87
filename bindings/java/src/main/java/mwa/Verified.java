package mwa;

import java.util.List;
import java.util.stream.Stream;

/**
 * What a verification found.
 *
 * @param outputs the merged files that the report names
 * @param companions what lies beside them and decides what they do: shard index, configs, tokenizer, templates
 * @param others files in the folder that the merge did not write
 * @param inputs the files that they were made of
 * @param remade whether merging again gave the same bytes; null when inputs are gone or changed, so that it was not tried
 */
public record Verified(
        List<Checked> outputs, List<Checked> companions, List<Checked> others, List<Checked> inputs, Boolean remade) {

    /**
     * A file compared with its hash in the report.
     *
     * @param path where it was looked for
     * @param state {@code same}, {@code changed} or {@code missing}; not in the report: {@code foreign} if it may be loaded with
     *     the model, else {@code beside}
     */
    public record Checked(String path, String state) {}

    /**
     * Whether everything is there, unchanged, merges to the same bytes, and nothing else is there that may be loaded.
     *
     * @return whether all is as it was
     */
    public boolean isGood() {
        Stream<Checked> all = Stream.of(outputs, companions, others, inputs).flatMap(List::stream);
        return Boolean.TRUE.equals(remade) && all.allMatch(file -> file.state().equals("same") || file.state().equals("beside"));
    }
}

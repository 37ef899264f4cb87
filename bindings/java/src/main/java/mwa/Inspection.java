package mwa;

import java.util.List;
import java.util.Map;

/**
 * What a path holds.
 *
 * @param path the path as given
 * @param checkpoints its checkpoints, by step
 * @param metrics what the run logged
 * @param notes what else is worth knowing
 * @param logs the logs in which metrics were found
 * @param known what it is and what can be done with it, where it is no run, or null
 */
public record Inspection(
        String path,
        List<Summary> checkpoints,
        List<Coverage> metrics,
        List<String> notes,
        List<FoundLog> logs,
        Known known) {
    /**
     * What something is.
     *
     * @param what in a few words
     * @param can what can be done with it
     */
    public record Known(String what, String can) {}

    /**
     * A log of a run.
     *
     * @param path its file, or the folder of several
     * @param kind what kind of log it is
     * @param metrics the metrics in it
     */
    public record FoundLog(String path, String kind, List<String> metrics) {}

    /**
     * A checkpoint.
     *
     * @param name its path
     * @param step its training step, or null
     * @param method PEFT's method, such as {@code LORA}; null for full models and loose files
     * @param verdict whether that method may be averaged, in a few words, or null
     * @param ranks the ranks of its factors, each once
     * @param dtypes how many tensors there are of each dtype
     * @param tensors how many tensors it has
     * @param parameters how many elements these have
     * @param bytes of its files with weights
     */
    public record Summary(
            String name,
            Long step,
            String method,
            String verdict,
            List<Long> ranks,
            Map<String, Long> dtypes,
            long tensors,
            long parameters,
            long bytes) {}

    /**
     * A logged metric.
     *
     * @param name its name in the log
     * @param covered how many checkpoints have a value of it
     * @param separation whether it tells them apart; null where its values are all the same, or too few
     */
    public record Coverage(String name, long covered, Separation separation) {}

    /**
     * How values of a metric differ.
     *
     * @param values how many were judged
     * @param range the largest less the smallest
     * @param noise of one value
     * @param signalToNoise range over noise
     * @param vonNeumann von Neumann's ratio, 2 for noise
     * @param separates whether the checkpoints are told apart; null for fewer than four values
     */
    public record Separation(
            long values, double range, double noise, double signalToNoise, double vonNeumann, Boolean separates) {}
}

package mwa;

import java.util.List;
import java.util.Map;

/**
 * What was merged, with which weights and why, and the hashes of all of it: {@code mwa-report.json}. What does not apply is null,
 * lists are empty. What only other commands of the program say, of rounds, folded adapters and the like, is not in here.
 *
 * @param mwa the version that merged
 * @param selected which checkpoints were taken, and why
 * @param weighting how weights came about
 * @param ranking how several metrics order the checkpoints, where the weights come from several
 * @param groups the weights of modules that have their own; null where all have the checkpoints'
 * @param space {@code factors} or {@code product}
 * @param rank the rank asked for in product space: {@code inputs}, {@code full}, {@code energy SHARE} or a number
 * @param residual how far the result is from the average of what the adapters do
 * @param quantised how far quantised weights are off by rounding their average once to codes of new scales; of many, the worst hundred
 * @param grafted how much of what was changed of a base counts by second moments
 * @param dtype the dtype asked for
 * @param shardSize the bytes that an output file has at most, where they were parted anew
 * @param adapter the adapter taken from checkpoints that hold several
 * @param format the container that the merge was converted to: {@code outputs} are then the files before, {@code companions} what is there
 * @param inputs the checkpoints, oldest first
 * @param outputs the merged files
 * @param companions what was written beside them and decides what they do: shard index, configs, tokenizer, templates
 * @param advice why little is to be expected of the merge
 * @param notes what else there is to say
 */
public record Report(
        String mwa,
        Selected selected,
        Weighting weighting,
        Ranking ranking,
        List<Group> groups,
        String space,
        String rank,
        Distance residual,
        Distance quantised,
        Grafted grafted,
        String dtype,
        Long shardSize,
        String adapter,
        String format,
        List<Input> inputs,
        List<HashedFile> outputs,
        List<HashedFile> companions,
        List<Advice> advice,
        List<String> notes) {
    /**
     * How weights came about.
     *
     * @param scheme how a metric became a weight
     * @param method what became of the values of each element; null where it is their weighted mean
     * @param penalty how hard a worse checkpoint was punished, where the scheme has that
     * @param metric the metric's name, where the scheme has one
     * @param goal {@code min} or {@code max}
     * @param outliers how many bad checkpoints were expected, where the scheme or the method asks that; of the latter, on each side
     * @param scale how much of what tasks changed is added to their base, where that was said
     * @param density the share of what each task changed that counts, the largest of it
     * @param densityPer {@code tensor} where that is of each tensor, instead of the whole model
     * @param subspace how many directions were kept, where the scheme asks that
     * @param settings what else the scheme was told, by the names of the options with {@code _}; null where it was told nothing
     */
    public record Weighting(
            String scheme,
            String method,
            Double penalty,
            String metric,
            String goal,
            Long outliers,
            Double scale,
            Double density,
            String densityPer,
            Long subspace,
            Map<String, String> settings) {}

    /**
     * Some modules, and their weights.
     *
     * @param modules the pattern that fits their names
     * @param layer the layer that they are in, where a gradient gives each its own weights
     * @param weights one per checkpoint
     * @param count how many modules
     */
    public record Group(String modules, Long layer, List<Double> weights, long count) {}

    /**
     * How several metrics order the checkpoints.
     *
     * @param combine {@code borda}, {@code kemeny}, {@code mean-rank} or {@code z-score}
     * @param metrics each metric
     * @param ranks of each checkpoint in the combined order, 0 for the best
     * @param comparisons of so many, each of two checkpoints by one metric,
     * @param disagreements the combined order goes against so many
     */
    public record Ranking(
            String combine, List<Ranked> metrics, List<Double> ranks, long comparisons, long disagreements) {}

    /**
     * A metric of a {@link Ranking}.
     *
     * @param name its name
     * @param goal {@code min} or {@code max}
     * @param values of each checkpoint
     * @param ranks of each checkpoint, 0 for the best
     */
    public record Ranked(String name, String goal, List<Double> values, List<Double> ranks) {}

    /**
     * Which checkpoints were taken, and why.
     *
     * @param rule {@code best} or {@code last} by a rule, {@code all}, or {@code given}: as they were selected or listed
     * @param taken how many were taken
     * @param found of how many
     * @param line all of it in words
     */
    public record Selected(String rule, long taken, long found, String line) {}

    /**
     * A checkpoint and its weight.
     *
     * @param name how messages call it
     * @param path the way to it from the output folder
     * @param step its training step
     * @param weightsKey the weights taken of a training state that holds several
     * @param metric the metric's value
     * @param source where that value comes from
     * @param role {@code base}, of which the other inputs are tasks
     * @param weight its share; all shares sum to 1
     * @param update where a scheme goes by steps, the share that is left of the updates since the checkpoint before
     * @param files its files with weights
     */
    public record Input(
            String name,
            String path,
            Long step,
            String weightsKey,
            Double metric,
            String source,
            String role,
            double weight,
            Double update,
            List<HashedFile> files) {}

    /**
     * A file by content.
     *
     * @param name its name in its folder
     * @param bytes its size
     * @param blake3 the BLAKE3 of its bytes, in hex, as {@code b3sum} prints it
     * @param sha256 their SHA-256, in hex, where it was asked for
     */
    public record HashedFile(String name, long bytes, String blake3, String sha256) {}

    /**
     * How far the result is from the average of what the adapters do: ‖result − Σ wγBA‖ / ‖Σ wγBA‖.
     *
     * @param overall over all modules together
     * @param method {@code exact}, or {@code sketch} for an estimate
     * @param standardError of {@code overall}, where it is an estimate
     * @param modules by module
     */
    public record Distance(double overall, String method, Double standardError, List<Module> modules) {}

    /**
     * A LoRA module of a {@link Distance}.
     *
     * @param module its name
     * @param rank its rank in the output, in product space
     * @param relative how far it is off
     * @param standardError of {@code relative}, where it is an estimate
     */
    public record Module(String module, Long rank, double relative, Double standardError) {}

    /**
     * How much of what was changed of a base counts, of each checkpoint.
     *
     * @param thresholds from which v·τ² on it counts; null where each tensor has its own
     * @param kept the share of all elements
     * @param modules the same by module
     */
    public record Grafted(List<Double> thresholds, List<Double> kept, List<GraftedModule> modules) {}

    /**
     * A module of a {@link Grafted}.
     *
     * @param module its name
     * @param kept the share of its elements, of each checkpoint
     */
    public record GraftedModule(String module, List<Double> kept) {}

    /**
     * Why little is to be expected of a merge, and what to do.
     *
     * @param about {@code schedule}, {@code checkpoints}, {@code metric} or {@code residual}
     * @param value the number behind it
     * @param text all of it in words
     */
    public record Advice(String about, double value, String text) {}
}

package mwa;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.stream.DoubleStream;

/**
 * The options of a merge, those of the command line; what is left out takes its default.
 *
 * <pre>{@code Options.defaults().metric("eval_loss").penalty(0.8)}</pre>
 *
 * <p>Options do not change: each method gives new ones. A text or a constant that is null is the default again.
 */
public final class Options {
    private static final Options DEFAULTS = new Options(Map.of());

    private final Map<String, Object> values;

    private Options(Map<String, Object> values) {
        this.values = values;
    }

    /**
     * All defaults.
     *
     * @return options to add to
     */
    public static Options defaults() {
        return DEFAULTS;
    }

    /** By the names of the core's table. */
    Map<String, Object> values() {
        return values;
    }

    /** Those that are not the host's own. */
    Map<String, Object> ofCore() {
        Map<String, Object> core = new LinkedHashMap<>(values);
        core.keySet().removeAll(List.of("force", "threads"));
        return core;
    }

    Options with(String name, Object value) {
        Map<String, Object> more = new LinkedHashMap<>(values);
        more.put(name, value);
        return new Options(more);
    }

    private Options with(String name, Enum<?> word) {
        return with(name, word == null ? null : word(word));
    }

    /** A constant as the core calls it: {@code _1_SQRT} is 1-sqrt. */
    static String word(Enum<?> constant) {
        String text = constant.name().toLowerCase(Locale.ROOT).replace('_', '-');
        return text.startsWith("-") ? text.substring(1) : text;
    }

    @Override
    public String toString() {
        return values.toString();
    }

    // made from core/src/options/mod.rs

    /**
     * The newest N checkpoints.
     *
     * @param last a whole number
     * @return these options and that one
     */
    public Options last(long last) {
        return with("last", last);
    }

    /**
     * Every K-th checkpoint, counted from the newest.
     *
     * @param every a whole number
     * @return these options and that one
     */
    public Options every(long every) {
        return with("every", every);
    }

    /**
     * Checkpoints between two steps, both included; either end may be left out.
     *
     * @param first a step, or null
     * @param last a step, or null
     * @return these options and that one
     */
    public Options steps(Long first, Long last) {
        return with("steps", Arrays.asList(first, last));
    }

    /**
     * The N checkpoints with the best metric.
     *
     * @param top a whole number
     * @return these options and that one
     */
    public Options top(long top) {
        return with("top", top);
    }

    /**
     * By a rule: the best by an evaluation or the last, ten, or fewer if the learning rate fell, at most half; or all [default: best of a run that logged evaluations, else last; all that are listed].
     *
     * @param select one of these
     * @return these options and that one
     */
    public Options select(Select select) {
        return with("select", select);
    }

    /**
     * The adapter inside checkpoints that hold several.
     *
     * @param adapter a name
     * @return these options and that one
     */
    public Options adapter(String adapter) {
        return with("adapter", adapter);
    }

    /**
     * The weights in training states that hold several sets of them, such as model_avg.
     *
     * @param weightsKey a name
     * @return these options and that one
     */
    public Options weightsKey(String weightsKey) {
        return with("weights_key", weightsKey);
    }

    /**
     * Leave out checkpoints that diverged, instead of failing.
     *
     * @param dropBad whether to do so
     * @return these options and that one
     */
    public Options dropBad(boolean dropBad) {
        return with("drop_bad", dropBad);
    }

    /**
     * loss, eval_loss, step or any logged NAME; or several, NAME,NAME:max [default: eval_loss if logged, else step].
     *
     * @param metric a name
     * @return these options and that one
     */
    public Options metric(String metric) {
        return with("metric", metric);
    }

    /**
     * Read the metric from a CSV or JSON Lines table with a column `checkpoint` or `step`.
     *
     * @param metricsFile a path, its parts parted by {@code /}
     * @return these options and that one
     */
    public Options metricsFile(String metricsFile) {
        return with("metrics_file", metricsFile);
    }

    /**
     * Take metrics from this log alone, a file or a folder with logs: TensorBoard, W&amp;B, MLflow, lm-eval and others.
     *
     * @param metricsFrom a name
     * @return these options and that one
     */
    public Options metricsFrom(String metricsFrom) {
        return with("metrics_from", metricsFrom);
    }

    /**
     * Whether lower or higher is better [default: from the metric's name].
     *
     * @param goal one of these
     * @return these options and that one
     */
    public Options goal(Goal goal) {
        return with("goal", goal);
    }

    /**
     * Of several metrics: the sum of the ranks they give, the order that disagrees the least with all, the mean rank, or scaled values [default: borda].
     *
     * @param combine one of these
     * @return these options and that one
     */
    public Options combine(Combine combine) {
        return with("combine", combine);
    }

    /**
     * How many questions an accuracy is the share of: it is told whether chance alone may make the difference.
     *
     * @param questions a whole number
     * @return these options and that one
     */
    public Options questions(long questions) {
        return with("questions", questions);
    }

    /**
     * Average a training metric over this many steps around a checkpoint; 0 interpolates [default: from the log].
     *
     * @param smooth a number
     * @return these options and that one
     */
    public Options smooth(double smooth) {
        return with("smooth", smooth);
    }

    /**
     * Take an evaluation that lies up to this many steps away from its checkpoint [default: 0].
     *
     * @param metricTolerance a whole number
     * @return these options and that one
     */
    public Options metricTolerance(long metricTolerance) {
        return with("metric_tolerance", metricTolerance);
    }

    /**
     * Fail rather than take a value that was not logged right at a checkpoint.
     *
     * @param strictMetrics whether to do so
     * @return these options and that one
     */
    public Options strictMetrics(boolean strictMetrics) {
        return with("strict_metrics", strictMetrics);
    }

    /**
     * What becomes of the values of each element: their weighted mean; their median, or their mean without the extremes, so that no bad checkpoint decides; a base model and what tasks changed of it, all of it, what each changed most, of that what most agree on, or all that enough of them have a share in; by the curvature that an optimizer's second moments tell, a mean, or a base with what counts most of what was changed; or by the angles between the checkpoints in each tensor, a base and as much of the mean as they agree, a point on the arc between two, or the mean on a sphere, about a base if there is one [default: mean].
     *
     * @param method one of these
     * @return these options and that one
     */
    public Options method(Method method) {
        return with("method", method);
    }

    /**
     * How a metric becomes a weight; with decay and ema steps decide, and with flag, krum, multi-krum and geometric-median the tensors, so that no bad checkpoint does [default: linear].
     *
     * @param scheme one of these
     * @return these options and that one
     */
    public Options scheme(Scheme scheme) {
        return with("scheme", scheme);
    }

    /**
     * How hard a worse checkpoint is punished; 0 is the plain mean [default: 0.8].
     *
     * @param penalty a number
     * @return these options and that one
     */
    public Options penalty(double penalty) {
        return with("penalty", penalty);
    }

    /**
     * How many bad checkpoints krum and multi-krum expect, or how many values trimmed-mean leaves out on each side [default: one, for these].
     *
     * @param outliers a whole number
     * @return these options and that one
     */
    public Options outliers(long outliers) {
        return with("outliers", outliers);
    }

    /**
     * How much of what tasks changed is added to the base: of task-arithmetic, magnitude-mask and consensus of their sum, of ties of their mean [default: 1 for ties, else 1 over the number of tasks].
     *
     * @param scale a number
     * @return these options and that one
     */
    public Options scale(double scale) {
        return with("scale", scale);
    }

    /**
     * The share of what each task changed that counts for magnitude-mask, ties and ffg, the largest of it [default: 0.2, or 0.1 for ffg].
     *
     * @param density a number
     * @return these options and that one
     */
    public Options density(double density) {
        return with("density", density);
    }

    /**
     * Whether that is a share of the whole model or of each tensor [default: model].
     *
     * @param densityPer one of these
     * @return these options and that one
     */
    public Options densityPer(DensityPer densityPer) {
        return with("density_per", densityPer);
    }

    /**
     * Of consensus, how much of what the others changed of an element together a task must exceed to have its share in it [default: 0.4].
     *
     * @param maskLambda a number
     * @return these options and that one
     */
    public Options maskLambda(double maskLambda) {
        return with("mask_lambda", maskLambda);
    }

    /**
     * How many tasks must have their share in it; what fewer changed is left as in the base [default: 2].
     *
     * @param agree a whole number
     * @return these options and that one
     */
    public Options agree(long agree) {
        return with("agree", agree);
    }

    /**
     * Where the second moments are, a file for each checkpoint in their order: an optimizer.pt, or what mwa moments writes [default: the optimizer.pt in each checkpoint].
     *
     * @param moments names
     * @return these options and that one
     */
    public Options moments(String... moments) {
        return with("moments", List.of(moments));
    }

    /**
     * The power of a second moment that is an element's weight, for ota and ffg [default: 0.5].
     *
     * @param power a number
     * @return these options and that one
     */
    public Options power(double power) {
        return with("power", power);
    }

    /**
     * What is added to these weights, as a share of their mean over the tensor [default: 1e-8].
     *
     * @param epsilon a number
     * @return these options and that one
     */
    public Options epsilon(double epsilon) {
        return with("epsilon", epsilon);
    }

    /**
     * What they are measured by before checkpoints are compared: their mean over the tensor, or nothing but what few steps left out [default: mean].
     *
     * @param normalise one of these
     * @return these options and that one
     */
    public Options normalise(Normalise normalise) {
        return with("normalise", normalise);
    }

    /**
     * How many directions the scheme flag keeps [default: one, for this scheme].
     *
     * @param subspace a whole number
     * @return these options and that one
     */
    public Options subspace(long subspace) {
        return with("subspace", subspace);
    }

    /**
     * With scheme decay, how the learning rate would have fallen [default: linear].
     *
     * @param curve one of these
     * @return these options and that one
     */
    public Options curve(Curve curve) {
        return with("curve", curve);
    }

    /**
     * What that curve ends at, as a share of where it begins [default: 0, or 0.1 of the curves inverse and exponential].
     *
     * @param floor a number
     * @return these options and that one
     */
    public Options floor(double floor) {
        return with("floor", floor);
    }

    /**
     * Where on it the checkpoints lie: by their steps, its mean between each two, or as Megatron counts them [default: segments].
     *
     * @param positions one of these
     * @return these options and that one
     */
    public Options positions(Positions positions) {
        return with("positions", positions);
    }

    /**
     * Take off such a decay what the logged learning rate had fallen by itself.
     *
     * @param correctForLr whether to do so
     * @return these options and that one
     */
    public Options correctForLr(boolean correctForLr) {
        return with("correct_for_lr", correctForLr);
    }

    /**
     * With scheme ema, how much the average keeps of itself at each checkpoint or step [default: 0.7].
     *
     * @param emaDecay a number
     * @return these options and that one
     */
    public Options emaDecay(double emaDecay) {
        return with("ema_decay", emaDecay);
    }

    /**
     * Which of the two it counts [default: checkpoint].
     *
     * @param emaPer one of these
     * @return these options and that one
     */
    public Options emaPer(EmaPer emaPer) {
        return with("ema_per", emaPer);
    }

    /**
     * Of several run folders, each selected and weighed by itself, how much of each [default: all the same].
     *
     * @param runWeights numbers
     * @return these options and that one
     */
    public Options runWeights(double... runWeights) {
        return with("run_weights", DoubleStream.of(runWeights).boxed().toList());
    }

    /**
     * Read weights that differ by module: a JSON list of {"modules": "self_attn", "weights": [0.2, 0.8]}.
     *
     * @param weightsFile a path, its parts parted by {@code /}
     * @return these options and that one
     */
    public Options weightsFile(String weightsFile) {
        return with("weights_file", weightsFile);
    }

    /**
     * Your own weights, one per checkpoint, instead of a metric's.
     *
     * @param weights numbers
     * @return these options and that one
     */
    public Options weights(double... weights) {
        return with("weights", DoubleStream.of(weights).boxed().toList());
    }

    /**
     * Average LoRA's factors A and B, or the products B·A that they make; the latter also across runs and ranks [default: factors].
     *
     * @param space one of these
     * @return these options and that one
     */
    public Options space(Space space) {
        return with("space", space);
    }

    /**
     * Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest].
     *
     * @param rank a whole number
     * @return these options and that one
     */
    public Options rank(long rank) {
        return with("rank", rank);
    }

    /**
     * Rank of merged products: a number, full (exact, the sum of ranks) or auto [default: the inputs' largest].
     *
     * @param rank how it is found
     * @return these options and that one
     */
    public Options rank(Rank rank) {
        return with("rank", rank);
    }

    /**
     * With rank auto, the share of the squared norm that each module keeps [default: 0.999].
     *
     * @param energy a number
     * @return these options and that one
     */
    public Options energy(double energy) {
        return with("energy", energy);
    }

    /**
     * Fail where a module that an input lacks would count as zero.
     *
     * @param strict whether to do so
     * @return these options and that one
     */
    public Options strict(boolean strict) {
        return with("strict", strict);
    }

    /**
     * How far averaged factors are from the average of their products: exact, sketch (an estimate in a fraction of a merge's time), or off [default: exact if that is quick, else sketch].
     *
     * @param residual one of these
     * @return these options and that one
     */
    public Options residual(Residual residual) {
        return with("residual", residual);
    }

    /**
     * Average the factors of adapters, or the models, that are not of one run.
     *
     * @param allowCrossRun whether to do so
     * @return these options and that one
     */
    public Options allowCrossRun(boolean allowCrossRun) {
        return with("allow_cross_run", allowCrossRun);
    }

    /**
     * Dtype of averaged tensors; keep takes the widest of the inputs [default: keep].
     *
     * @param dtype one of these
     * @return these options and that one
     */
    public Options dtype(Dtype dtype) {
        return with("dtype", dtype);
    }

    /**
     * Container of what is merged: keep, pt, own (checkpoints of torch distributed and DeepSpeed again), or for a LoRA as mwa convert writes it [default: that of the inputs].
     *
     * @param format one of these
     * @return these options and that one
     */
    public Options format(Format format) {
        return with("format", format);
    }

    /**
     * Part a model into files of at most this size, such as 5GB, with the index that transformers and diffusers look for [default: the newest checkpoint's files].
     *
     * @param shardSize a size, such as 5GB
     * @return these options and that one
     */
    public Options shardSize(String shardSize) {
        return with("shard_size", shardSize);
    }

    /**
     * The base model of tasks, or of LoRA checkpoints an earlier one of their run; for formats gguf and mlx the base model's folder or its config.json.
     *
     * @param base a name
     * @return these options and that one
     */
    public Options base(String base) {
        return with("base", base);
    }

    /**
     * The image model, for format kohya where names do not tell it: flux, sd3, qwen-image, wan, sdxl, sd.
     *
     * @param model a name
     * @return these options and that one
     */
    public Options model(String model) {
        return with("model", model);
    }

    /**
     * Let NaN and infinity through instead of failing.
     *
     * @param allowNonFinite whether to do so
     * @return these options and that one
     */
    public Options allowNonFinite(boolean allowNonFinite) {
        return with("allow_non_finite", allowNonFinite);
    }

    /**
     * Write files anew where one checkpoint alone has weight, instead of copying its own.
     *
     * @param rewrite whether to do so
     * @return these options and that one
     */
    public Options rewrite(boolean rewrite) {
        return with("rewrite", rewrite);
    }

    /**
     * Replace an earlier merge.
     *
     * @param force whether to do so
     * @return these options and that one
     */
    public Options force(boolean force) {
        return with("force", force);
    }

    /**
     * Threads [default: one per core].
     *
     * @param threads a whole number
     * @return these options and that one
     */
    public Options threads(long threads) {
        return with("threads", threads);
    }

    /** Values of {@code select}. */
    public enum Select {
        /** {@code best}. */
        BEST,
        /** {@code last}. */
        LAST,
        /** {@code all}. */
        ALL
    }

    /** Values of {@code goal}. */
    public enum Goal {
        /** {@code min}. */
        MIN,
        /** {@code max}. */
        MAX
    }

    /** Values of {@code combine}. */
    public enum Combine {
        /** {@code borda}. */
        BORDA,
        /** {@code kemeny}. */
        KEMENY,
        /** {@code mean-rank}. */
        MEAN_RANK,
        /** {@code z-score}. */
        Z_SCORE
    }

    /** Values of {@code method}. */
    public enum Method {
        /** {@code mean}. */
        MEAN,
        /** {@code median}. */
        MEDIAN,
        /** {@code trimmed-mean}. */
        TRIMMED_MEAN,
        /** {@code task-arithmetic}. */
        TASK_ARITHMETIC,
        /** {@code magnitude-mask}. */
        MAGNITUDE_MASK,
        /** {@code ties}. */
        TIES,
        /** {@code consensus}. */
        CONSENSUS,
        /** {@code ota}. */
        OTA,
        /** {@code ffg}. */
        FFG,
        /** {@code model-stock}. */
        MODEL_STOCK,
        /** {@code slerp}. */
        SLERP,
        /** {@code multi-slerp}. */
        MULTI_SLERP,
        /** {@code karcher}. */
        KARCHER
    }

    /** Values of {@code scheme}. */
    public enum Scheme {
        /** {@code linear}. */
        LINEAR,
        /** {@code power}. */
        POWER,
        /** {@code exponential}. */
        EXPONENTIAL,
        /** {@code rank}. */
        RANK,
        /** {@code decay}. */
        DECAY,
        /** {@code ema}. */
        EMA,
        /** {@code uniform}. */
        UNIFORM,
        /** {@code flag}. */
        FLAG,
        /** {@code krum}. */
        KRUM,
        /** {@code multi-krum}. */
        MULTI_KRUM,
        /** {@code geometric-median}. */
        GEOMETRIC_MEDIAN
    }

    /** Values of {@code densityPer}. */
    public enum DensityPer {
        /** {@code model}. */
        MODEL,
        /** {@code tensor}. */
        TENSOR
    }

    /** Values of {@code normalise}. */
    public enum Normalise {
        /** {@code mean}. */
        MEAN,
        /** {@code none}. */
        NONE
    }

    /** Values of {@code curve}. */
    public enum Curve {
        /** {@code linear}. */
        LINEAR,
        /** {@code cosine}. */
        COSINE,
        /** {@code 1-sqrt}. */
        _1_SQRT,
        /** {@code inverse}. */
        INVERSE,
        /** {@code exponential}. */
        EXPONENTIAL
    }

    /** Values of {@code positions}. */
    public enum Positions {
        /** {@code segments}. */
        SEGMENTS,
        /** {@code megatron}. */
        MEGATRON
    }

    /** Values of {@code emaPer}. */
    public enum EmaPer {
        /** {@code checkpoint}. */
        CHECKPOINT,
        /** {@code step}. */
        STEP
    }

    /** Values of {@code space}. */
    public enum Space {
        /** {@code factors}. */
        FACTORS,
        /** {@code product}. */
        PRODUCT
    }

    /** Values of {@code rank}. */
    public enum Rank {
        /** {@code auto}. */
        AUTO,
        /** {@code full}. */
        FULL
    }

    /** Values of {@code residual}. */
    public enum Residual {
        /** {@code exact}. */
        EXACT,
        /** {@code sketch}. */
        SKETCH,
        /** {@code off}. */
        OFF
    }

    /** Values of {@code dtype}. */
    public enum Dtype {
        /** {@code keep}. */
        KEEP,
        /** {@code f32}. */
        F32,
        /** {@code bf16}. */
        BF16,
        /** {@code f16}. */
        F16
    }

    /** Values of {@code format}. */
    public enum Format {
        /** {@code keep}. */
        KEEP,
        /** {@code peft}. */
        PEFT,
        /** {@code diffusers}. */
        DIFFUSERS,
        /** {@code kohya}. */
        KOHYA,
        /** {@code mlx}. */
        MLX,
        /** {@code gguf}. */
        GGUF,
        /** {@code pt}. */
        PT,
        /** {@code own}. */
        OWN
    }

    // end of what is made
}

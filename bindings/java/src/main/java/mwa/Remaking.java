package mwa;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** What reports say of merges that a session makes again. What says more was made by something else, and would be called changed. */
final class Remaking {
    /** All that is said of what a session makes again, by the part of the report. */
    private static final Map<String, Set<String>> KNOWN = Map.of(
            "",
            Set.of(
                    "mwa", "selected", "weighting", "ranking", "groups", "space", "rank", "residual", "quantised", "grafted", "dtype",
                    "shard_size", "adapter", "round", "inputs", "outputs", "companions", "advice", "notes"),
            "weighting",
            Set.of(
                    "scheme", "method", "penalty", "metric", "goal", "outliers", "scale", "density", "density_per", "subspace",
                    "settings"),
            "round",
            Set.of("rule", "discount", "period", "rate", "momentum", "clip", "clients", "samples", "dropped"));

    /** The commands of the program that say something else. */
    private static final Map<String, String> MAKERS = Map.of(
            "format", "mwa merge --format",
            "folded", "mwa apply",
            "extracted", "mwa extract",
            "recovered", "mwa recover",
            "round.server", "mwa aggregate --server",
            "round.partials", "mwa aggregate with exact sums (--partial)");

    private Remaking() {}

    /** What of a report no session makes again, in words; null if there is nothing. */
    static String elsewhere(JsonObject report) {
        Set<String> odd = new TreeSet<>(unknown("", report));
        for (String part : List.of("weighting", "round")) {
            if (report.get(part) instanceof JsonObject inner) odd.addAll(unknown(part, inner));
        }
        for (String name : odd) {
            if (MAKERS.containsKey(name)) return "was made by " + MAKERS.get(name) + ", which this engine does not make again";
        }
        for (String name : odd) return "says `" + name + "`, which this engine does not know how to make again";
        if (!report.has("inputs")) return null;
        for (JsonElement input : report.getAsJsonArray("inputs")) {
            String path = Json.text(input.getAsJsonObject(), "path");
            if (path != null && path.contains("://")) {
                return "is of inputs in a store, such as " + path + ", which this engine does not read";
            }
        }
        return null;
    }

    private static List<String> unknown(String part, JsonObject members) {
        return members.entrySet().stream()
                .filter(member -> !member.getValue().isJsonNull() && !KNOWN.get(part).contains(member.getKey()))
                .map(member -> part.isEmpty() ? member.getKey() : part + "." + member.getKey())
                .toList();
    }
}

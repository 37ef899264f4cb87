package mwa;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import com.google.gson.JsonParser;
import java.nio.charset.StandardCharsets;

/** JSON as the core speaks it: names with underscores. */
final class Json {
    private static final Gson GSON = new GsonBuilder()
            .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
            .disableHtmlEscaping()
            .create();

    private Json() {}

    /** The bytes of a value. */
    static byte[] bytes(Object value) {
        return GSON.toJson(value).getBytes(StandardCharsets.UTF_8);
    }

    static JsonObject object(byte[] json) {
        return JsonParser.parseString(new String(json, StandardCharsets.UTF_8)).getAsJsonObject();
    }

    /** A record of what JSON says; what it lacks is null. */
    static <T> T read(Class<T> kind, JsonElement json) throws JsonParseException {
        return GSON.fromJson(json, kind);
    }

    static <T> T read(Class<T> kind, byte[] json) throws JsonParseException {
        return GSON.fromJson(new String(json, StandardCharsets.UTF_8), kind);
    }

    /** A report, whose lists are empty where JSON has none. */
    static Report report(JsonObject json) throws JsonParseException {
        for (String list : new String[] {"inputs", "outputs", "companions", "advice", "notes"}) addMissing(json, list);
        for (JsonElement input : json.getAsJsonArray("inputs")) addMissing(input.getAsJsonObject(), "files");
        return GSON.fromJson(json, Report.class);
    }

    private static void addMissing(JsonObject object, String list) {
        if (!object.has(list)) object.add(list, new JsonArray());
    }

    /** A member that is a text, or null. */
    static String text(JsonObject object, String name) {
        JsonElement member = object.get(name);
        return member == null || member.isJsonNull() ? null : member.getAsString();
    }
}

package mwa;

import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.MatchResult;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Options in messages as Java writes them: the core's own words are those of the command line. */
final class Speech {
    /** A word after a flag may be its value; a sentence's full stop or comma is not of it. */
    private static final Pattern FLAG = Pattern.compile("--([a-z][a-z0-9-]*[a-z0-9])(?: ([^\\s,;:?()]*[^\\s,;:?().]))?");

    /** Where a whole command line begins. */
    private static final Pattern COMMAND = Pattern.compile(
            "\\bmwa (?:merge|finish|search|weights|inspect|convert|moments|verify|aggregate|recover|apply|extract|masks|devices|man) ");

    /** What the methods of {@link Options} take, by their names. */
    private static final Map<String, List<Class<?>>> TYPES = new HashMap<>();

    static {
        for (Method method : Options.class.getMethods()) {
            boolean isOption = method.getReturnType() == Options.class && !Modifier.isStatic(method.getModifiers());
            if (!isOption) continue;
            Class<?> type = method.getParameterCount() == 1 ? method.getParameterTypes()[0] : Options.class;
            TYPES.computeIfAbsent(method.getName(), name -> new ArrayList<>()).add(type);
        }
    }

    private Speech() {}

    /** {@code --drop-bad} as {@code dropBad(true)}, {@code --metric loss} as {@code metric("loss")}; command lines stay as they are. */
    static String spoken(String text) {
        if (text == null) return null;
        Matcher command = COMMAND.matcher(text);
        String before = command.find() ? text.substring(0, command.start()) : text;
        return FLAG.matcher(before).replaceAll(match -> Matcher.quoteReplacement(option(match))) + text.substring(before.length());
    }

    private static String option(MatchResult match) {
        String word = match.group(2);
        String name = camel(match.group(1));
        List<Class<?>> types = TYPES.get(name);
        if (types == null) return match.group();
        String rest = word == null ? "" : " " + word;
        if (types.contains(boolean.class)) return name + "(true)" + rest;
        if (word == null) return name;
        boolean isNumber = word.matches("[0-9.]+");
        if (!isNumber && word.equals(word.toUpperCase(Locale.ROOT))) return name + "(" + word + ")";
        for (Class<?> type : types) {
            if (isNumber && (type == long.class || type == double.class)) return name + "(" + word + ")";
            if (type == String.class) return name + "(\"" + word + "\")";
            if (!type.isEnum()) continue;
            for (Object constant : type.getEnumConstants()) {
                if (Options.word((Enum<?>) constant).equals(word)) {
                    return name + "(" + type.getSimpleName() + "." + constant + ")";
                }
            }
        }
        return name + rest;
    }

    private static String camel(String flag) {
        return Pattern.compile("-(.)").matcher(flag).replaceAll(match -> match.group(1).toUpperCase(Locale.ROOT));
    }
}

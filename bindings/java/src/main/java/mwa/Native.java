package mwa;

import java.lang.reflect.InvocationTargetException;
import java.util.Optional;

/** Finds {@code libmwa}, which {@code LibMwa} calls: a class for Java 22 and newer, which older machines leave alone. */
final class Native {
    private static final String CLASS = "mwa.LibMwa";

    private Native() {}

    /** The library where it is named or the system finds it; nothing where this machine cannot call it. */
    static Optional<Engine> find() {
        String named = System.getProperty("mwa.library", System.getenv("MWA_LIBRARY"));
        if (named != null && !named.isEmpty()) return Optional.of(open(named));
        if (Runtime.version().feature() < 22) return Optional.empty();
        try {
            return Optional.of(open(System.getProperty("os.name").startsWith("Linux") ? "libmwa.so.0" : System.mapLibraryName("mwa")));
        } catch (MergeException error) {
            return Optional.empty();
        }
    }

    static Engine open(String library) {
        if (Runtime.version().feature() < 22) {
            throw unusable(library, "Java " + Runtime.version().feature() + " cannot call it", "use Java 22 or newer, or Engine.chicory()");
        }
        try {
            return (Engine) Class.forName(CLASS).getDeclaredConstructor(String.class).newInstance(library);
        } catch (ClassNotFoundException error) {
            throw unusable(library, "this jar was built without what calls it", "build it with Java 22 or newer");
        } catch (InvocationTargetException error) {
            throw unusable(library, "cannot be opened: " + error.getCause().getMessage(), "name the library of `cargo xtask build c`");
        } catch (ReflectiveOperationException error) {
            throw unusable(library, "cannot be called: " + error, "please report it");
        }
    }

    private static MergeException unusable(String library, String detail, String help) {
        return new MergeException("device", library, detail, help);
    }
}

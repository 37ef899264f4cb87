package mwa;

/** A merge that cannot be done: a stable kind, the place, the facts, and what to do about it. */
public final class MergeException extends RuntimeException {
    private static final long serialVersionUID = 1;

    /** One word. */
    private final String kind;
    /** Where, or null. */
    private final String file;
    /** Of which tensor, or null. */
    private final String tensor;
    /** The facts. */
    private final String detail;
    /** What to do, or null. */
    private final String help;

    MergeException(String kind, String file, String tensor, String detail, String help) {
        super(message(file, tensor, Speech.spoken(detail)));
        this.kind = kind;
        this.file = file;
        this.tensor = tensor;
        this.detail = Speech.spoken(detail);
        this.help = Speech.spoken(help);
    }

    MergeException(String kind, String file, String detail, String help) {
        this(kind, file, null, detail, help);
    }

    /** The system refuses: what was being done, and why. */
    static MergeException io(String doing, String file, java.io.IOException error) {
        if (error instanceof java.nio.channels.ClosedByInterruptException) return stopped();
        MergeException made = new MergeException("io", file, doing + ": " + Trouble.why(error), Trouble.help(error));
        made.initCause(error);
        return made;
    }

    static MergeException stopped() {
        return new MergeException("stopped", null, "stopped; nothing was written", null);
    }

    private static String message(String file, String tensor, String detail) {
        String place = file == null ? "" : file + ": ";
        return place + (tensor == null ? "" : "tensor `" + tensor + "` ") + detail;
    }

    /**
     * One word for programs, which never changes its meaning: {@code header}, {@code dtype}, {@code shape}, {@code names},
     * {@code config}, {@code method}, {@code metric}, {@code weights}, {@code non-finite}, {@code overflow}, {@code differs},
     * {@code cross-run}, {@code device}, {@code input}, {@code output}, {@code io}, {@code usage}, {@code stopped} or {@code bug}.
     *
     * @return the kind
     */
    public String kind() {
        return kind;
    }

    /**
     * The file, checkpoint or folder at fault.
     *
     * @return its path as it was given, or null
     */
    public String file() {
        return file;
    }

    /**
     * The tensor at fault.
     *
     * @return its name, or null
     */
    public String tensor() {
        return tensor;
    }

    /**
     * The facts, without place and help.
     *
     * @return a line of text
     */
    public String detail() {
        return detail;
    }

    /**
     * What to do about it.
     *
     * @return a line of text, or null
     */
    public String help() {
        return help;
    }
}

package mwa;

import java.io.FileNotFoundException;
import java.io.IOException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;

/** What the system's refusals say to a person: Java's exceptions name the file twice and the reason not at all. */
final class Trouble {
    private Trouble() {}

    /** The reason. */
    static String why(IOException error) {
        if (error instanceof AccessDeniedException) return "Permission denied";
        if (error instanceof NoSuchFileException || error instanceof FileNotFoundException) return "No such file or directory";
        if (error instanceof FileSystemException at && at.getReason() != null) return at.getReason();
        return error.getMessage() == null ? error.getClass().getSimpleName() : error.getMessage();
    }

    /** What to do about it; null where nothing is known. */
    static String help(IOException error) {
        if (error instanceof AccessDeniedException) return "check the permissions of the file and of its folder";
        return switch (why(error)) {
            case "File too large" -> "raise the limit on file sizes (ulimit -f), or write to another file system";
            case "No space left on device", "Disk quota exceeded" -> "free some space, or write elsewhere";
            case "Too many open files" -> "raise the limit on open files (ulimit -n), or close some in other programs";
            default -> null;
        };
    }
}

package mwa;

import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.attribute.BasicFileAttributes;
import java.nio.file.attribute.FileTime;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;

/** The files of this machine, and whether one changes while it is merged. */
final class Disk implements Source {
    /** Enough to notice that a file was replaced or written to. */
    private record Stamp(long size, FileTime modified) {
        static Stamp of(BasicFileAttributes found) {
            return new Stamp(found.size(), found.lastModifiedTime());
        }
    }

    private final Map<String, Stamp> stamps = new ConcurrentHashMap<>();

    /** A path as the core knows it. */
    static String text(Path path) {
        return path.toString().replace(File.separatorChar, '/');
    }

    static List<String> texts(List<Path> paths) {
        return Objects.requireNonNull(paths, "inputs").stream().map(path -> text(Objects.requireNonNull(path, "a path is null"))).toList();
    }

    /** A path as the system knows it. */
    static Path path(String text) {
        return Path.of(text.isEmpty() ? "." : text);
    }

    @Override
    public Entry entry(String path) throws IOException {
        BasicFileAttributes found;
        try {
            found = Files.readAttributes(path(path), BasicFileAttributes.class);
        } catch (NoSuchFileException error) {
            return Entry.MISSING;
        } catch (FileSystemException error) {
            if ("Not a directory".equals(error.getReason())) return Entry.MISSING;
            throw error;
        }
        if (found.isDirectory()) return Entry.FOLDER;
        if (!found.isRegularFile()) return Entry.OTHER;
        stamps.putIfAbsent(path, Stamp.of(found));
        return Entry.file(found.size());
    }

    @Override
    public List<String> list(String folder) throws IOException {
        try (Stream<Path> entries = Files.list(path(folder))) {
            return entries.map(entry -> entry.getFileName().toString()).toList();
        }
    }

    @Override
    public String place(String path) throws IOException {
        return text(path(path).toRealPath());
    }

    @Override
    public int read(String path, long position, ByteBuffer bytes) throws IOException {
        // opened anew each time: a channel is closed under all who use it when one of them is interrupted
        try (FileChannel file = FileChannel.open(path(path))) {
            int done = 0;
            while (bytes.hasRemaining()) {
                int count = file.read(bytes, position + done);
                if (count < 1) break;
                done += count;
            }
            return done;
        }
    }

    /** Fail if a file is no longer what it was when it was first looked at. */
    void checkUnchanged(String path) {
        try {
            Stamp now = Stamp.of(Files.readAttributes(path(path), BasicFileAttributes.class));
            if (now.equals(stamps.get(path))) return;
        } catch (IOException error) {
            throw MergeException.io("vanished while it was read", path, error);
        }
        String help = "merge again when nothing writes to it any more";
        throw new MergeException("io", path, "changed while it was read", help);
    }
}

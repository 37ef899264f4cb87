package mwa;

import com.google.gson.JsonParseException;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.stream.Stream;

/** The output folder: made under another name beside its place, and put there whole or not at all. */
final class Staging implements AutoCloseable {
    static final String CARD = "README.md";
    static final String REPORT = "mwa-report.json";

    private final Path shown;
    private final Path target;
    private final Path folder;
    private final boolean force;
    /** Folders that had to be made, outermost first. */
    private final Deque<Path> made;
    private final Map<String, FileChannel> files = new ConcurrentHashMap<>();
    private boolean isPublished;

    private Staging(Path shown, Path target, Path folder, boolean force, Deque<Path> made) {
        this.shown = shown;
        this.target = target;
        this.folder = folder;
        this.force = force;
        this.made = made;
    }

    /** Refuse an output that exists, unless it is empty or, with {@code force}, an earlier merge and nothing else. */
    static void check(Path target, boolean force) {
        if (Files.notExists(target, LinkOption.NOFOLLOW_LINKS)) return;
        if (!Files.isDirectory(target)) {
            throw refusal(target, "exists and is not a folder", "choose another output folder");
        }
        try (Stream<Path> entries = Files.list(target)) {
            if (entries.findFirst().isEmpty()) return;
        } catch (IOException error) {
            throw MergeException.io("cannot list it", target.toString(), error);
        }
        if (!force) {
            String help = "choose another output folder, or replace an earlier merge with force";
            throw refusal(target, "exists already", help);
        }
        earlier(target, target);
    }

    /** Begin the folder beside {@code target}, which must not be, lie in, or hold one of the inputs. */
    static Staging begin(Path target, boolean force, List<Path> inputs) {
        check(target, force);
        Deque<Path> made = new ArrayDeque<>();
        try {
            // what exists is replaced where it is, also behind a link
            Path wanted = Files.exists(target) ? target.toRealPath() : target.toAbsolutePath().normalize();
            Path parent = wanted.getParent();
            if (parent == null) throw refusal(target, "cannot be the name of a folder", null);
            make(parent, made);
            Path place = parent.toRealPath().resolve(wanted.getFileName());
            for (Path input : inputs) {
                Path there = Files.exists(input) ? input.toRealPath() : input.toAbsolutePath().normalize();
                if (place.startsWith(there) || there.startsWith(place)) {
                    throw refusal(target, "would overwrite the input " + input, "choose an output folder outside the inputs");
                }
            }
            // not as the native program calls its own, which it takes away where nobody holds them
            String name = ".mwa-" + UUID.randomUUID();
            Path folder = Files.createDirectory(place.resolveSibling(name));
            return new Staging(target, place, folder, force, made);
        } catch (IOException error) {
            unmake(made);
            throw MergeException.io("cannot write it", target.toString(), error);
        } catch (MergeException error) {
            unmake(made);
            throw error;
        }
    }

    /** Where the output will be. */
    Path target() {
        return target;
    }

    /** Where a file of it is for now. */
    Path path(String name) {
        return folder.resolve(name);
    }

    /** Create a file, to be written in pieces. */
    void create(String name) {
        if (!isInside(name)) throw refusal(shown, "`" + name + "` is not the name of a file in the folder", null);
        try {
            Path path = path(name);
            Files.createDirectories(path.getParent());
            files.put(name, FileChannel.open(path, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE));
        } catch (IOException error) {
            throw unwritten(name, error);
        }
    }

    /** Write bytes of a file; several threads may. */
    void write(String name, long position, ByteBuffer bytes) {
        FileChannel file = files.get(name);
        try {
            for (long at = position; bytes.hasRemaining(); ) at += file.write(bytes, at);
        } catch (IOException error) {
            throw unwritten(name, error);
        }
    }

    /** Make a file durable. */
    void finish(String name) {
        try (FileChannel file = files.remove(name)) {
            file.force(true);
        } catch (IOException error) {
            throw unwritten(name, error);
        }
    }

    /** Put the folder in its place. The earlier merge that it replaces, if any, is removed last. */
    void publish() {
        try {
            try (Stream<Path> inner = Files.walk(folder)) {
                for (Path each : inner.filter(Files::isDirectory).toList()) sync(each);
            }
            Path aside = put();
            isPublished = true;
            if (aside != null) remove(aside);
            sync(target.getParent());
        } catch (IOException error) {
            throw MergeException.io("cannot write it", shown.toString(), error);
        }
    }

    /** Move the folder to its place; where the earlier merge is that was there. */
    private Path put() throws IOException {
        Path aside = null;
        // a folder is never moved onto a file, nor onto a folder that holds anything; an empty one is replaced
        if (force && Files.isDirectory(target) && !isEmpty(target)) {
            aside = folder.resolveSibling(folder.getFileName() + "-old");
            Files.move(target, aside, StandardCopyOption.ATOMIC_MOVE);
        }
        try {
            // looked at once more, where nobody knows it: what came in at the last moment is not removed
            if (aside != null) earlier(aside, shown);
            check(shown, false);
            Files.move(folder, target, StandardCopyOption.ATOMIC_MOVE);
            return aside;
        } catch (IOException | MergeException error) {
            if (aside != null) Files.move(aside, target, StandardCopyOption.ATOMIC_MOVE);
            throw error;
        }
    }

    /** Take away what was not published. */
    @Override
    public void close() {
        for (FileChannel file : files.values()) {
            try {
                file.close();
            } catch (IOException error) {
                // it goes anyway
            }
        }
        files.clear();
        if (isPublished) return;
        removeQuietly(folder);
        unmake(made);
    }

    /** Remove a folder with all that is in it; what cannot be removed stays: another error is the one to tell. */
    static void removeQuietly(Path folder) {
        try {
            remove(folder);
        } catch (IOException error) {
            // as said
        }
    }

    private MergeException unwritten(String name, IOException error) {
        return MergeException.io("cannot write it", shown.resolve(name).toString(), error);
    }

    private static MergeException refusal(Path target, String detail, String help) {
        return new MergeException("output", target.toString(), detail, help);
    }

    /** Refuse a folder that is not an earlier merge and nothing else; errors call it {@code shown}. */
    private static void earlier(Path folder, Path shown) {
        String help = "choose another output folder, or remove this one yourself";
        Set<String> wrote = new HashSet<>(List.of(CARD, REPORT));
        Set<String> others = new TreeSet<>();
        try {
            Report report = Json.report(Json.object(Files.readAllBytes(folder.resolve(REPORT))));
            report.outputs().forEach(file -> wrote.add(file.name()));
            report.companions().forEach(file -> wrote.add(file.name()));
            // without the hashes of companions, which not every host has, they cannot be told from others
            try (Stream<Path> files = Files.walk(folder)) {
                files.filter(file -> !Files.isDirectory(file, LinkOption.NOFOLLOW_LINKS))
                        .map(file -> Disk.text(folder.relativize(file)))
                        .filter(name -> !wrote.contains(name))
                        .forEach(others::add);
            }
        } catch (NoSuchFileException error) {
            throw refusal(shown, "is not an earlier merge (it has no " + REPORT + "); it is not replaced, even with force", help);
        } catch (IOException | JsonParseException | IllegalStateException | ClassCastException error) {
            String why = "its " + REPORT + " is not the report of a merge";
            throw refusal(shown, "is not an earlier merge (" + why + "); it is not replaced, even with force", help);
        }
        if (others.isEmpty()) return;
        String list = String.join(", ", others.stream().limit(5).toList()) + (others.size() > 5 ? ", …" : "");
        throw refusal(
                shown,
                "holds what the earlier merge did not write: " + list + "; it is not replaced, even with force",
                "move that elsewhere, or choose another output folder");
    }

    /** Whether a name leads to something in its folder, or in the folders in it, and nowhere else. */
    static boolean isInside(String name) {
        return Stream.of(name.split("/", -1))
                .noneMatch(part -> part.isEmpty() || part.equals(".") || part.equals("..") || part.contains("\\"));
    }

    private static boolean isEmpty(Path folder) throws IOException {
        try (Stream<Path> entries = Files.list(folder)) {
            return entries.findFirst().isEmpty();
        }
    }

    private static void make(Path folder, Deque<Path> made) throws IOException {
        if (Files.isDirectory(folder)) return;
        if (folder.getParent() != null) make(folder.getParent(), made);
        try {
            made.addFirst(Files.createDirectory(folder));
        } catch (java.nio.file.FileAlreadyExistsException error) {
            // someone else was quicker, and it is theirs
            if (!Files.isDirectory(folder)) throw error;
        }
    }

    private static void unmake(Deque<Path> made) {
        try {
            for (Path folder : made) Files.deleteIfExists(folder);
        } catch (IOException error) {
            // others have put something in it meanwhile
        }
        made.clear();
    }

    /** Make what was written into a folder durable; systems that cannot open a folder do it by themselves. */
    private static void sync(Path folder) throws IOException {
        if (File.separatorChar == '\\') return;
        try (FileChannel channel = FileChannel.open(folder)) {
            channel.force(true);
        }
    }

    private static void remove(Path folder) throws IOException {
        if (Files.notExists(folder, LinkOption.NOFOLLOW_LINKS)) return;
        Files.walkFileTree(folder, new SimpleFileVisitor<>() {
            @Override
            public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) throws IOException {
                Files.delete(file);
                return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult postVisitDirectory(Path inner, IOException error) throws IOException {
                if (error != null) throw error;
                Files.delete(inner);
                return FileVisitResult.CONTINUE;
            }
        });
    }
}

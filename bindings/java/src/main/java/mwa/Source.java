package mwa;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;

/**
 * Files to merge that do not lie on this machine's disk: an archive, a database, an object store.
 *
 * <p>Paths are those that were given to the merge, and what was found in them; names in them are parted by {@code /}. All
 * methods are called from several threads at once. What they throw is an error of the merge, and names the path. A call under way is
 * waited for when the merge is stopped: let what may hang end by itself.
 */
public interface Source {
    /**
     * What is at a path.
     *
     * @param path a path
     * @return what it is; {@link Entry#MISSING} where nothing is
     * @throws IOException when it cannot be said
     */
    Entry entry(String path) throws IOException;

    /**
     * What lies in a folder.
     *
     * @param folder the path of a folder
     * @return the names of all that lies in it, in any order
     * @throws IOException when it cannot be listed
     */
    List<String> list(String folder) throws IOException;

    /**
     * Where a path leads, links resolved.
     *
     * @param path the path of something that is there
     * @return the same text for two paths that lead to one place; the path itself where there are no links
     * @throws IOException when it cannot be said
     */
    default String place(String path) throws IOException {
        return path;
    }

    /**
     * Fill a buffer from a file, as {@link java.nio.channels.FileChannel#read(ByteBuffer, long)} does.
     *
     * @param path the path of a file
     * @param position where to begin in the file, in bytes
     * @param bytes what to fill, or as much of it as is at hand
     * @return how many bytes were read; less than 1 at the end of the file
     * @throws IOException when it cannot be read
     */
    int read(String path, long position, ByteBuffer bytes) throws IOException;

    /**
     * What is at a path.
     *
     * @param type what kind of thing it is
     * @param size its bytes, if it is a file
     */
    record Entry(Type type, long size) {
        /** A folder. */
        public static final Entry FOLDER = new Entry(Type.FOLDER, 0);

        /** A pipe, a device or the like. */
        public static final Entry OTHER = new Entry(Type.OTHER, 0);

        /** Nothing, or a link that leads to nothing. */
        public static final Entry MISSING = new Entry(Type.MISSING, 0);

        /**
         * A regular file.
         *
         * @param size its bytes
         * @return it
         */
        public static Entry file(long size) {
            return new Entry(Type.FILE, size);
        }
    }

    /** Kinds of things at paths. */
    enum Type {
        /** A regular file. */
        FILE,
        /** A folder. */
        FOLDER,
        /** A pipe, a device or the like. */
        OTHER,
        /** Nothing. */
        MISSING
    }
}

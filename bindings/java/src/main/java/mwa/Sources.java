package mwa;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.List;

/** Reading from a source to the end of a buffer. */
final class Sources {
    private Sources() {}

    /** Fill a buffer as far as the file goes; how many bytes that were. */
    static int fill(Source source, String path, long position, ByteBuffer bytes) throws IOException {
        int done = 0;
        while (bytes.hasRemaining()) {
            int count = source.read(path, position + done, bytes);
            if (count < 1) break;
            done += count;
        }
        return done;
    }

    /** Fill a buffer with spans of files, one after the other. */
    static void fill(Source source, List<String> files, List<Session.Span> spans, byte[] bytes) {
        int at = 0;
        for (Session.Span span : spans) {
            String path = files.get(span.file());
            try {
                if (fill(source, path, span.start(), ByteBuffer.wrap(bytes, at, span.length())) < span.length()) {
                    throw new MergeException("io", path, "is shorter than it was", "merge again when nothing writes to it any more");
                }
            } catch (IOException error) {
                throw MergeException.io("cannot read it", path, error);
            }
            at += span.length();
        }
    }
}

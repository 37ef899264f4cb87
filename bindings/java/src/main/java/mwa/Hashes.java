package mwa;

import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;
import org.apache.commons.codec.digest.Blake3;

/**
 * Hashes of whole files: all that is known of hashes here. The core's jobs would make those of a merge, but Java makes them in a quarter
 * of the time that Chicory takes.
 */
final class Hashes {
    /** Bytes read at a time. */
    private static final int PIECE = 1 << 20;

    private Hashes() {}

    /** Whether a file on this machine has the content that a report names, by every hash that the report has of it. */
    static boolean fits(Path path, Report.HashedFile file) throws IOException {
        boolean isKnown = file.blake3() != null || file.sha256() != null;
        return isKnown
                && (file.blake3() == null || file.blake3().equals(blake3(path)))
                && (file.sha256() == null || file.sha256().equals(sha256(path)));
    }

    static String blake3(Path path) throws IOException {
        return blake3(new Disk(), Disk.text(path), () -> {});
    }

    /** BLAKE3 of a file; {@code check} is run now and then. */
    static String blake3(Source source, String path, Runnable check) throws IOException {
        Blake3 hash = Blake3.initHash();
        ByteBuffer piece = ByteBuffer.allocate(PIECE);
        long at = 0;
        for (int count; (count = source.read(path, at, piece.clear())) > 0; at += count) {
            check.run();
            hash.update(piece.array(), 0, count);
        }
        return HexFormat.of().formatHex(hash.doFinalize(32));
    }

    /** BLAKE3 of a text. */
    static String blake3(byte[] text) {
        return HexFormat.of().formatHex(Blake3.hash(text));
    }

    private static String sha256(Path path) throws IOException {
        MessageDigest hash;
        try {
            hash = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException(error); // every Java has it
        }
        byte[] piece = new byte[PIECE];
        try (InputStream file = Files.newInputStream(path)) {
            for (int count; (count = file.read(piece)) > 0; ) hash.update(piece, 0, count);
        }
        return HexFormat.of().formatHex(hash.digest());
    }
}

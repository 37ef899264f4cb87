package mwa;

/** Hears how far a merge is, on the thread that merges, after each piece of work; what it throws stops the merge. */
@FunctionalInterface
public interface Progress {
    /**
     * Called now and then.
     *
     * @param done bytes of input that were read and merged
     * @param total bytes that are to be read: more than there are where some are read twice, and it grows where ranks are found first
     */
    void at(long done, long total);
}

package mwa;

import java.util.concurrent.CompletableFuture;
import java.util.function.Function;

/** A merge on a thread of its own, which can be stopped. */
final class Pending extends CompletableFuture<Report> {
    private Thread thread;
    private volatile boolean isStopped;

    private Pending() {}

    static Pending start(Function<Pending, Report> merge) {
        Pending pending = new Pending();
        // also where it ends otherwise, as by orTimeout
        pending.whenComplete((report, error) -> pending.isStopped |= error != null);
        pending.thread = new Thread(() -> pending.run(merge), "mwa merge");
        pending.thread.setDaemon(true);
        pending.thread.start();
        return pending;
    }

    private void run(Function<Pending, Report> merge) {
        try {
            complete(merge.apply(this));
        } catch (Throwable error) {
            if (isStopped) super.cancel(true);
            else completeExceptionally(error);
        }
    }

    /** Whether it is to stop. */
    boolean isStopped() {
        return isStopped;
    }

    /** Fail if it is to stop. */
    void check() {
        if (isStopped) throw MergeException.stopped();
    }

    /** Stop the merge, and wait until it has cleaned up; a merge that was quicker stays. */
    @Override
    public boolean cancel(boolean mayInterruptIfRunning) {
        isStopped = true;
        boolean isOwn = Thread.currentThread() == thread;
        boolean wasInterrupted = false;
        while (!isOwn && thread.isAlive()) {
            try {
                thread.join();
            } catch (InterruptedException error) {
                wasInterrupted = true;
            }
        }
        if (wasInterrupted) Thread.currentThread().interrupt();
        return isOwn || isCancelled();
    }
}

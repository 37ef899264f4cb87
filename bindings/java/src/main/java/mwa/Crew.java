package mwa;

import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executor;

/**
 * Sessions of one merge, each with a thread, that share its jobs as wasm/README.md says: each walks through all of them, runs those that
 * nobody has taken, and hears what was found in the others.
 */
final class Crew {
    /** Reads, runs and writes a job; called by several threads at once, each with its own session. */
    interface Labour {
        void run(Session session, Session.Job job);
    }

    /** A session, and how far it is. */
    private static final class Member {
        final Session session;
        /** The job that it is at, and the module that it has taken last. */
        long number = -1;
        long module = -1;
        /** Jobs that were handed out here and belong to others. */
        final Set<Long> noted = new HashSet<>();
        /** What was found in jobs of others, by their number. */
        final Map<Long, byte[]> told = new HashMap<>();
        /** Why it cannot go on. */
        Throwable failure;

        Member(Session session) {
            this.session = session;
        }
    }

    private final List<Member> members = new ArrayList<>();
    private final Executor executor;
    private final Labour labour;
    /** The lowest number of a job, and of a module, that nobody has taken. */
    private long free;
    private long freeModule;
    private boolean hasFailed;

    Crew(List<Session> sessions, Executor executor, Labour labour) {
        sessions.forEach(session -> members.add(new Member(session)));
        this.executor = executor;
        this.labour = labour;
    }

    /**
     * Run all jobs, those of the first session on this thread.
     *
     * @param restart hears that what was written is void, because a bad checkpoint is left out
     * @return a session that knows all that was found
     */
    Session run(Runnable restart) {
        while (true) {
            List<CompletableFuture<Void>> others = members.stream()
                    .skip(1)
                    .map(member -> CompletableFuture.runAsync(() -> work(member), executor))
                    .toList();
            work(members.get(0));
            for (CompletableFuture<Void> other : others) other.join();
            if (!hasFailed) return members.get(0).session;
            begin();
            restart.run();
        }
    }

    /** After a failure: begin again without a bad checkpoint, in the session that found it alone; or fail. */
    private void begin() {
        Member first = members.stream()
                .filter(member -> member.failure != null)
                .min(Comparator.comparingLong(member -> member.number))
                .orElseThrow();
        boolean isBad = first.failure instanceof MergeException error && error.kind().equals("non-finite");
        if (!isBad || !first.session.again()) {
            if (first.failure instanceof Error error) throw error;
            throw (RuntimeException) first.failure;
        }
        members.clear();
        members.add(new Member(first.session));
        free = 0;
        freeModule = 0;
        hasFailed = false;
    }

    /** Go through all jobs. */
    private void work(Member member) {
        try {
            while (!hasFailed()) {
                Session.Step step = next(member);
                if (step == null) {
                    hear(member);
                } else if (step.work() == null) {
                    if (member.noted.isEmpty()) return;
                    hear(member);
                } else if (isOwn(member, step.work())) {
                    labour.run(member.session, step.work());
                    tell(member);
                } else {
                    member.noted.add(step.work().number());
                }
            }
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            fail(member, MergeException.stopped());
        } catch (Throwable failure) { // an Error too must wait until all have stopped
            fail(member, failure);
        }
    }

    /** The next job; null where that depends on what others are at. */
    private static Session.Step next(Member member) {
        try {
            return member.session.next();
        } catch (MergeException error) {
            if (error.kind().equals("usage") && !member.noted.isEmpty()) return null;
            throw error;
        }
    }

    private synchronized boolean hasFailed() {
        return hasFailed;
    }

    private synchronized void fail(Member member, Throwable failure) {
        member.failure = failure;
        hasFailed = true;
        notifyAll();
    }

    /** Whether a job is a member's, who takes it if nobody has. */
    private synchronized boolean isOwn(Member member, Session.Job job) {
        member.number = job.number();
        if (job.module() == null) {
            if (job.number() < free) return false;
            free = job.number() + 1;
            return true;
        }
        if (job.module() == member.module) return true;
        if (job.module() < freeModule) return false;
        freeModule = job.module() + 1;
        member.module = job.module();
        return true;
    }

    /** Tell the others what was found in the job that a member is at. */
    private void tell(Member member) {
        if (members.size() == 1) return;
        byte[] found = member.session.found();
        synchronized (this) {
            for (Member other : members) if (other != member) other.told.put(member.number, found);
            notifyAll();
        }
    }

    /** Take in what was found in jobs of others; wait for it, if need be. */
    private void hear(Member member) throws InterruptedException {
        Map<Long, byte[]> heard = new HashMap<>();
        synchronized (this) {
            while (!hasFailed && heard.isEmpty()) {
                for (long number : member.noted) {
                    byte[] found = member.told.remove(number);
                    if (found != null) heard.put(number, found);
                }
                if (heard.isEmpty()) wait();
            }
        }
        for (Map.Entry<Long, byte[]> each : heard.entrySet()) {
            member.session.take(each.getKey(), each.getValue());
            member.noted.remove(each.getKey());
        }
    }
}

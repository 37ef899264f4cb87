package mwa;

import com.google.gson.JsonObject;
import com.google.gson.JsonParseException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;

/** Check a merged folder: its files against the report, the inputs against the report, and the merge made again. */
final class Verifying {
    private final Chicory engine;
    private final Path folder;
    private final Path place;
    private JsonObject json;

    Verifying(Chicory engine, Path folder) {
        this.engine = engine;
        this.folder = folder;
        place = folder.resolve(Staging.REPORT);
    }

    Verified run() {
        Report report = report();
        String elsewhere = Remaking.elsewhere(json);
        // names of what only the program makes need not lie in the folder
        if (elsewhere == null) checkNames(report);
        checkKnown();
        if (elsewhere != null) {
            String help = "verify it with the program: mwa verify " + folder + "; or with the engine libmwa";
            throw new MergeException("usage", place.toString(), elsewhere, help);
        }
        List<Verified.Checked> outputs = report.outputs().stream().map(this::checkHere).toList();
        List<Verified.Checked> companions = report.companions().stream().map(this::checkHere).toList();
        List<Verified.Checked> inputs = new ArrayList<>();
        for (Report.Input input : report.inputs()) {
            Path base = folder.resolve(input.path());
            if (Files.isRegularFile(base)) base = base.getParent();
            if (report.adapter() != null) base = base.resolve(report.adapter());
            for (Report.HashedFile file : input.files()) inputs.add(check(base, file));
        }
        boolean areInputsThere = inputs.stream().allMatch(file -> file.state().equals("same"));
        return new Verified(outputs, companions, others(report), inputs, areInputsThere ? isRemade(report) : null);
    }

    /** Ask the core whether it knows such reports: those of a later version it may not. */
    private void checkKnown() {
        try {
            new Session(engine, new Disk(), request(List.of())).close();
        } catch (MergeException error) {
            // what else is wrong shows as it is used
            if (!error.kind().equals("input")) return;
            throw new MergeException("input", place.toString(), error.detail(), error.help());
        }
    }

    private Session.Request request(List<String> paths) {
        return new Session.Request("verify", paths, Map.of(), engine.chunk(), false, json);
    }

    private Report report() {
        if (!Files.isRegularFile(place)) {
            String help = "verify takes a folder that mwa wrote, with its report";
            String detail = Files.notExists(folder) ? "does not exist" : "holds no " + Staging.REPORT;
            throw new MergeException("input", folder.toString(), detail, help);
        }
        Report report;
        try {
            json = Json.object(Files.readAllBytes(place));
            report = Json.report(json.deepCopy());
        } catch (IOException error) {
            throw MergeException.io("cannot read it", place.toString(), error);
        } catch (JsonParseException | IllegalStateException | ClassCastException error) {
            throw damaged("is not a merge report: " + error.getMessage());
        }
        if (report == null || report.mwa() == null || report.inputs().isEmpty()) throw damaged("is not a merge report");
        return report;
    }

    /** Names that lead elsewhere would have other files checked than those that are loaded from the folder. */
    private void checkNames(Report report) {
        List<Report.HashedFile> files = new ArrayList<>(report.outputs());
        files.addAll(report.companions());
        for (Report.Input input : report.inputs()) {
            List<Report.HashedFile> all = input.files();
            files.addAll(isWeighedByMoments(report, input) ? all.subList(0, Math.min(1, all.size())) : all);
        }
        for (Report.HashedFile file : files) {
            if (!Staging.isInside(file.name())) throw damaged("names `" + file.name() + "`, which is not a file in the folder");
        }
        if (report.adapter() != null && !Staging.isInside(report.adapter())) {
            throw damaged("names `" + report.adapter() + "`, which is not in the folder");
        }
    }

    /**
     * Whether all files of an input but the first, which has weights, may have second moments. These lie anywhere, and nobody loads them from
     * the merged folder.
     */
    private static boolean isWeighedByMoments(Report report, Report.Input input) {
        if (input.role() != null || report.weighting() == null) return false;
        String method = report.weighting().method();
        return "ota".equals(method) || "ffg".equals(method);
    }

    private MergeException damaged(String detail) {
        return new MergeException("input", place.toString(), detail, "the report was damaged or edited: merge again");
    }

    /** A file of the merged folder; what it leads to may become another file, or be one that is nobody's business. */
    private Verified.Checked checkHere(Report.HashedFile file) {
        Path path = folder.resolve(file.name());
        try {
            if (Files.exists(path) && !path.toRealPath().startsWith(folder.toRealPath())) {
                String help = "verify a folder that holds the files themselves";
                throw new MergeException("input", path.toString(), "is a link out of the folder, to " + path.toRealPath(), help);
            }
        } catch (IOException error) {
            throw MergeException.io("cannot look at it", path.toString(), error);
        }
        return check(folder, file);
    }

    private static Verified.Checked check(Path base, Report.HashedFile file) {
        Path path = base.resolve(file.name());
        // as the way to moments that lie elsewhere was told, whatever is a link
        if (!Staging.isInside(file.name())) path = path.normalize();
        return new Verified.Checked(Disk.text(path.normalize()), state(path, file));
    }

    private static String state(Path path, Report.HashedFile file) {
        try {
            if (Files.notExists(path)) return "missing";
            // a pipe or a device would be read for ever
            boolean isAlike = Files.isRegularFile(path) && Files.size(path) == file.bytes();
            return isAlike && Hashes.fits(path, file) ? "same" : "changed";
        } catch (NoSuchFileException error) {
            return "missing";
        } catch (IOException error) {
            throw MergeException.io("cannot look at it", path.toString(), error);
        }
    }

    /** The files below the folder that the merge did not write, by name; hidden folders are left out. */
    private List<Verified.Checked> others(Report report) {
        Set<String> wrote = new HashSet<>(List.of(Staging.CARD, Staging.REPORT));
        report.outputs().forEach(file -> wrote.add(file.name()));
        report.companions().forEach(file -> wrote.add(file.name()));
        Set<String> found = new TreeSet<>();
        try {
            Files.walkFileTree(folder, new SimpleFileVisitor<>() {
                @Override
                public FileVisitResult preVisitDirectory(Path inner, BasicFileAttributes attributes) {
                    boolean isHidden = !inner.equals(folder) && inner.getFileName().toString().startsWith(".");
                    return isHidden ? FileVisitResult.SKIP_SUBTREE : FileVisitResult.CONTINUE;
                }

                @Override
                public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) {
                    found.add(Disk.text(folder.relativize(file)));
                    return FileVisitResult.CONTINUE;
                }
            });
        } catch (IOException error) {
            throw MergeException.io("cannot list it", folder.toString(), error);
        }
        found.removeAll(wrote);
        return found.stream()
                .map(name -> new Verified.Checked(Disk.text(folder.resolve(name).normalize()), engine.isLoaded(name) ? "foreign" : "beside"))
                .toList();
    }

    /** Merge again, in memory alone, and compare what comes out. */
    private boolean isRemade(Report report) {
        Source disk = new Disk();
        List<String> paths = report.inputs().stream().map(input -> Disk.text(folder.resolve(input.path()))).toList();
        Report again;
        try (Session session = new Session(engine, disk, request(paths))) {
            Session.State known = null;
            for (Session.Job job; (job = session.next().work()) != null; ) {
                if (known == null) known = session.state();
                byte[] bytes = new byte[job.reads().stream().mapToInt(Session.Span::length).sum()];
                Sources.fill(disk, known.inputs(), job.reads(), bytes);
                session.run(job, bytes, bytes.length);
            }
            again = report(session.finish(new Session.Ending(List.of(), List.of(), null)));
        }
        return isSame(again.outputs(), report.outputs())
                && (report.companions().isEmpty() || isSame(again.companions(), report.companions()));
    }

    private static Report report(List<Session.Text> texts) {
        String text = texts.stream().filter(it -> it.name().equals(Staging.REPORT)).findFirst().orElseThrow().content();
        return Json.report(Json.object(text.getBytes(StandardCharsets.UTF_8)));
    }

    /** Reports of before have no BLAKE3: what they say of their files was checked already. */
    private boolean isSame(List<Report.HashedFile> again, List<Report.HashedFile> before) {
        if (again.size() != before.size()) return false;
        for (int i = 0; i < before.size(); i++) {
            Report.HashedFile file = before.get(i);
            try {
                String hash = file.blake3() == null ? Hashes.blake3(folder.resolve(file.name())) : file.blake3();
                if (!again.get(i).name().equals(file.name()) || !again.get(i).blake3().equals(hash)) return false;
            } catch (IOException error) {
                throw MergeException.io("cannot read it", folder.resolve(file.name()).toString(), error);
            }
        }
        return true;
    }
}

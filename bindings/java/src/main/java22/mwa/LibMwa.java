package mwa;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BOOLEAN;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.StructLayout;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;

/** The native library, by Java's foreign-function interface: {@code bindings/c/include/mwa.h}. */
@SuppressWarnings("restricted") // it is what this class is for
final class LibMwa implements Engine {
    private static final Linker LINKER = Linker.nativeLinker();
    private static final FunctionDescriptor PROGRESS = FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_LONG, JAVA_LONG);
    private static final StructLayout ERROR = MemoryLayout.structLayout(
            ValueLayout.JAVA_BYTE.withName("kind"),
            MemoryLayout.paddingLayout(7),
            ADDRESS.withName("name"),
            ADDRESS.withName("path"),
            ADDRESS.withName("tensor"),
            ADDRESS.withName("detail"),
            ADDRESS.withName("help"));

    private final String library;
    private final Arena arena = Arena.ofShared();
    private final MethodHandle merge;
    private final MethodHandle weights;
    private final MethodHandle inspect;
    private final MethodHandle verify;
    private final MethodHandle copyText;
    private final MethodHandle freeText;
    private final MethodHandle freeError;
    private volatile boolean isClosed;

    LibMwa(String library) {
        this.library = library;
        // not in the arena: threads of the library may be on their way out when it would be unloaded
        SymbolLookup symbols = library.contains("/") || library.contains("\\")
                ? SymbolLookup.libraryLookup(Path.of(library), Arena.global())
                : SymbolLookup.libraryLookup(library, Arena.global());
        merge = function(symbols, "mwa_merge", FunctionDescriptor.of(ADDRESS, ADDRESS, JAVA_LONG, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS));
        weights = function(symbols, "mwa_weights", FunctionDescriptor.of(ADDRESS, ADDRESS, JAVA_LONG, ADDRESS, ADDRESS));
        inspect = function(symbols, "mwa_inspect", FunctionDescriptor.of(ADDRESS, ADDRESS, ADDRESS, ADDRESS));
        verify = function(symbols, "mwa_verify", FunctionDescriptor.of(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS));
        copyText = function(symbols, "mwa_text_copy", FunctionDescriptor.of(JAVA_LONG, ADDRESS, ADDRESS, JAVA_LONG));
        freeText = function(symbols, "mwa_text_free", FunctionDescriptor.ofVoid(ADDRESS));
        freeError = function(symbols, "mwa_error_free", FunctionDescriptor.ofVoid(ADDRESS));
    }

    @Override
    public String name() {
        return "libmwa at " + library;
    }

    @Override
    public Report merge(List<Path> inputs, Path out, Options options, Progress progress) {
        Arguments.merge(Disk.texts(inputs), out, options, progress);
        try (Arena call = call()) {
            Listener listener = new Listener(progress);
            MemorySegment report = call.allocate(ADDRESS);
            MemorySegment failed = (MemorySegment) merge.invokeExact(
                    paths(call, inputs),
                    (long) inputs.size(),
                    call.allocateFrom(Disk.text(out)),
                    json(call, options),
                    listener.pointer(call),
                    MemorySegment.NULL,
                    report);
            listener.rethrow(failed);
            check(failed);
            return Json.report(Json.object(text(report)));
        } catch (Throwable error) {
            throw unchecked(error);
        }
    }

    @Override
    public Report weights(List<Path> inputs, Options options) {
        Arguments.options(options);
        Arguments.paths(Disk.texts(inputs));
        try (Arena call = call()) {
            MemorySegment report = call.allocate(ADDRESS);
            check((MemorySegment) weights.invokeExact(paths(call, inputs), (long) inputs.size(), json(call, options), report));
            return Json.report(Json.object(text(report)));
        } catch (Throwable error) {
            throw unchecked(error);
        }
    }

    @Override
    public Inspection inspect(Path path, Options options) {
        String name = Arguments.path(path, "path");
        Arguments.options(options);
        try (Arena call = call()) {
            MemorySegment found = call.allocate(ADDRESS);
            check((MemorySegment) inspect.invokeExact(call.allocateFrom(name), json(call, options), found));
            return Json.read(Inspection.class, text(found));
        } catch (Throwable error) {
            throw unchecked(error);
        }
    }

    @Override
    public Verified verify(Path folder) {
        String name = Arguments.path(folder, "folder");
        try (Arena call = call()) {
            MemorySegment found = call.allocate(ADDRESS);
            MemorySegment failed = (MemorySegment) verify.invokeExact(
                    call.allocateFrom(name),
                    MemorySegment.NULL,
                    MemorySegment.NULL,
                    MemorySegment.NULL,
                    call.allocate(JAVA_BOOLEAN),
                    found);
            check(failed);
            return Json.read(Verified.class, text(found));
        } catch (Throwable error) {
            throw unchecked(error);
        }
    }

    @Override
    public void close() {
        isClosed = true;
    }

    private Arena call() {
        if (isClosed) throw new MergeException("usage", null, "the engine is closed", "open another");
        return Arena.ofConfined();
    }

    /** What hears the progress; what it throws must not cross the library, and is thrown when that has stopped. */
    private static final class Listener {
        private static final MethodHandle TELL;

        static {
            try {
                MethodType type = MethodType.methodType(int.class, MemorySegment.class, long.class, long.class);
                TELL = MethodHandles.lookup().findVirtual(Listener.class, "tell", type);
            } catch (ReflectiveOperationException error) {
                throw new IllegalStateException(error);
            }
        }

        private final Progress progress;
        private Throwable thrown;

        Listener(Progress progress) {
            this.progress = progress;
        }

        MemorySegment pointer(Arena call) {
            return LINKER.upcallStub(TELL.bindTo(this), PROGRESS, call);
        }

        private int tell(MemorySegment user, long done, long total) {
            try {
                progress.at(done, total);
                return Thread.currentThread().isInterrupted() ? 1 : 0;
            } catch (Throwable error) {
                thrown = error;
                return 1;
            }
        }

        void rethrow(MemorySegment failed) throws Throwable {
            if (thrown != null && failed.address() != 0) throw thrown;
        }
    }

    private void check(MemorySegment failed) throws Throwable {
        if (failed.address() == 0) return;
        MemorySegment error = failed.reinterpret(ERROR.byteSize());
        MergeException made =
                new MergeException(fact(error, "name"), fact(error, "path"), fact(error, "tensor"), fact(error, "detail"), fact(error, "help"));
        freeError.invokeExact(failed);
        throw made;
    }

    private static String fact(MemorySegment error, String name) {
        long offset = ERROR.byteOffset(MemoryLayout.PathElement.groupElement(name));
        MemorySegment text = error.get(ADDRESS, offset);
        return text.address() == 0 ? null : text.reinterpret(Long.MAX_VALUE).getString(0);
    }

    /** The text that a pointer points to, which is given back. */
    private byte[] text(MemorySegment pointer) throws Throwable {
        MemorySegment text = pointer.get(ADDRESS, 0);
        try (Arena copy = Arena.ofConfined()) {
            long length = (long) copyText.invokeExact(text, MemorySegment.NULL, 0L);
            MemorySegment room = copy.allocate(length + 1);
            length = (long) copyText.invokeExact(text, room, length + 1);
            return room.asSlice(0, length).toArray(ValueLayout.JAVA_BYTE);
        } finally {
            freeText.invokeExact(text);
        }
    }

    private static MemorySegment paths(Arena call, List<Path> inputs) {
        MemorySegment paths = call.allocate(ADDRESS, inputs.size());
        for (int i = 0; i < inputs.size(); i++) paths.setAtIndex(ADDRESS, i, call.allocateFrom(Disk.text(inputs.get(i))));
        return paths;
    }

    private static MemorySegment json(Arena call, Options options) {
        return call.allocateFrom(new String(Json.bytes(options.values()), StandardCharsets.UTF_8));
    }

    private static MethodHandle function(SymbolLookup symbols, String name, FunctionDescriptor type) {
        return LINKER.downcallHandle(symbols.find(name).orElseThrow(() -> new IllegalArgumentException("it has no " + name)), type);
    }

    private static RuntimeException unchecked(Throwable error) {
        if (error instanceof Error serious) throw serious;
        return error instanceof RuntimeException known ? known : new IllegalStateException(error);
    }
}

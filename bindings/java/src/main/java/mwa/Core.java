package mwa;

import com.dylibso.chicory.runtime.ByteArrayMemory;
import com.dylibso.chicory.runtime.ChicoryInterruptedException;
import com.dylibso.chicory.runtime.ExportFunction;
import com.dylibso.chicory.runtime.Instance;
import com.dylibso.chicory.runtime.Memory;
import com.dylibso.chicory.wasm.ChicoryException;
import com.google.gson.JsonObject;
import java.util.HashMap;
import java.util.Map;
import mwa.core.CoreModule;

/** An instance of the core module: calls, and bytes in and out of its memory. For one thread at a time. */
final class Core {
    private final Instance instance;
    private final Map<String, ExportFunction> functions = new HashMap<>();
    private boolean isSound = true;

    Core() {
        instance = Instance.builder(CoreModule.load())
                .withMachineFactory(CoreModule::create)
                .withMemoryFactory(ByteArrayMemory::new)
                .build();
    }

    /** Call a function that takes numbers and gives one. */
    long call(String name, long... arguments) {
        ExportFunction function = functions.computeIfAbsent(name, instance::export);
        try {
            long[] result = function.apply(arguments);
            return result == null || result.length == 0 ? 0 : result[0] & 0xffff_ffffL;
        } catch (OutOfMemoryError error) {
            isSound = false;
            throw noMemory("Java's heap is full", error);
        } catch (ChicoryInterruptedException error) {
            isSound = false;
            throw MergeException.stopped();
        } catch (ChicoryException error) {
            isSound = false;
            MergeException bug =
                    new MergeException("bug", null, "the core stopped itself: " + error.getMessage(), "please report it");
            bug.initCause(error);
            throw bug;
        }
    }

    /** As {@link #call}, where 0 means that it failed. */
    long must(String name, long... arguments) {
        long result = call(name, arguments);
        if (result == 0) throw failure();
        return result;
    }

    /** Room in the module's memory; the call that gets the address owns it from then on. */
    long allocate(int length) {
        long address = call("mwa_allocate", length);
        if (address != 0) return address;
        throw noMemory("the core has no room for " + length + " bytes", null);
    }

    /** Whether no call has gone wrong inside, so that another merge may use it. */
    boolean isSound() {
        return isSound;
    }

    /** Bytes of its memory. */
    long size() {
        return (long) memory().pages() * Memory.PAGE_SIZE;
    }

    private static MergeException noMemory(String detail, Throwable cause) {
        MergeException made = new MergeException("device", null, detail, "use fewer threads, give Java more memory (-Xmx), or use libmwa");
        made.initCause(cause);
        return made;
    }

    /** Copy bytes into the module's memory. */
    void write(long address, byte[] bytes, int length) {
        memory().write((int) address, bytes, 0, length);
    }

    /** Copy bytes into new room in the module's memory. */
    long pass(byte[] bytes) {
        long address = allocate(bytes.length);
        write(address, bytes, bytes.length);
        return address;
    }

    /** What the last call answered. */
    byte[] answer() {
        int address = (int) call("mwa_answer");
        int length = (int) call("mwa_answer_length");
        return length == 0 ? new byte[0] : memory().readBytes(address, length);
    }

    /** What the last call, which failed, says. */
    MergeException failure() {
        JsonObject told = Json.object(answer()).getAsJsonObject("error");
        return new MergeException(
                Json.text(told, "kind"),
                Json.text(told, "file"),
                Json.text(told, "tensor"),
                Json.text(told, "detail"),
                Json.text(told, "help"));
    }

    /** It may grow in any call, so it is looked at anew. */
    private Memory memory() {
        return instance.memory();
    }
}

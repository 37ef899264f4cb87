import java.nio.file.Path;
import mwa.*;

class Merge {
    public static void main(String... paths) {
        Report report = Mwa.merge(Path.of(paths[0]), Path.of(paths[1]), Options.defaults().metric("eval_loss"));
        for (Report.Input row : report.inputs()) System.out.printf("%s %.4f%n", row.name(), row.weight());
        System.out.println(report.outputs().get(0).blake3() + " by " + Mwa.engine());
    }
}

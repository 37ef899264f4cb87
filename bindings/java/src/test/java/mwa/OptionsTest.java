package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;

import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;

final class OptionsTest {
    @Test
    void nullIsTheDefaultAgain() {
        Options some = Options.defaults().metric("loss").select(Options.Select.ALL).rank(4).last(3);
        Options fewer = some.metric(null).select(null).rank(null);
        assertEquals("{\"last\":3}", new String(Json.bytes(fewer.ofCore()), StandardCharsets.UTF_8));
    }
}

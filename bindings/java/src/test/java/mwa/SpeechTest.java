package mwa;

import static org.junit.jupiter.api.Assertions.assertEquals;

import org.junit.jupiter.api.Test;

class SpeechTest {
    @Test
    void optionsAreSpokenAsJavaWritesThem() {
        assertEquals(
                "leave them out with dropBad(true), or give metric(\"loss\")",
                Speech.spoken("leave them out with --drop-bad, or give --metric loss"));
        assertEquals(
                "take fewer of them (last(5)), or space(Space.PRODUCT).",
                Speech.spoken("take fewer of them (--last 5), or --space product."));
        assertEquals(
                "give the model with base(MODEL); see --no-such thing",
                Speech.spoken("give the model with --base MODEL; see --no-such thing"));
        assertEquals("curve(Curve._1_SQRT), or rank(Rank.AUTO)", Speech.spoken("--curve 1-sqrt, or --rank auto"));
        assertEquals(
                "leave out dtype, or: mwa convert IN --dtype f32 -o OUT",
                Speech.spoken("leave out --dtype, or: mwa convert IN --dtype f32 -o OUT"));
        assertEquals("try rank, or: mwa merge run --last 3 -o out", Speech.spoken("try --rank, or: mwa merge run --last 3 -o out"));
    }
}

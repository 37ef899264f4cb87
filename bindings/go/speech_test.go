package mwa

import "testing"

func TestSpoken(t *testing.T) {
	for text, want := range map[string]string{
		"leave them out with --drop-bad, or give --metric loss":    `leave them out with DropBad: true, or give Metric: "loss"`,
		"take fewer of them (--last 5), or --space product.":       `take fewer of them (Last: 5), or Space: "product".`,
		"give the model with --base MODEL; see --no-such thing":    "give the model with Base: MODEL; see --no-such thing",
		"leave out --dtype, or: mwa convert IN --dtype f32 -o OUT": "leave out Dtype, or: mwa convert IN --dtype f32 -o OUT",
		"expect fewer (--outliers 0), or give --penalty 0.5":       "expect fewer (Outliers: mwa.Whole(0)), or give Penalty: mwa.Number(0.5)",
		"try --rank, or: mwa merge run --last 3 -o out":            "try Rank, or: mwa merge run --last 3 -o out",
	} {
		if got := spoken(text); got != want {
			t.Errorf("%q\n got %q\nwant %q", text, got, want)
		}
	}
}

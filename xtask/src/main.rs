//! Build, test and measure: the verbs that contributors and CI share.

mod bench;
mod bindings;
mod c;
mod ci;
mod component;
mod count;
mod docs;
mod go;
mod gpu;
mod hashes;
mod inputs;
mod java;
mod model;
mod python;
mod release;
mod run;
mod supply;
mod target;
mod test;
mod trials;
mod vectors;
mod web;

use std::process::ExitCode;

use run::build;

const HELP: &str = "\
usage: cargo xtask VERB …

  build                    the release binary, target/release/mwa
  build python             the wheel and the source distribution, in target/wheels
  build c                  header, libraries, pkg-config file and CMake package, in target/c
  build component          the component and the core module, target/wasm/mwa.*.wasm, with SIMD and without
  build component --check  … and once more in another folder: the same bytes, or an error
  build web                the npm package, wasm/web/dist
  build go                 the core module into bindings/go, whose package embeds it
  build java               the Java package, its jar and its documentation, with Maven
  build page               the page, examples/browser/dist
  build docs               the guide as a site, target/docs/site, by mdBook, which is installed if it is not there; with the API's
                           documentation, and the page if it is built
  build release [PART]     every package of this version, or one kind of them (wasm, crates, binary [TRIPLE], python, npm, c,
                           java), looked over by its registry's tools, installed where nothing else is, and tried on the
                           sample run: target/distribution. `sums` writes SHA256SUMS of what lies there

  test                     all tests, and whether the vectors are fresh; ends with what passed, failed and was skipped
  test core                the core alone; more arguments go to `cargo test`
  test host                the host and the command line
  test conformance         the vectors and the laws, on every executor
  test wasm                build the component, then conformance with it too, in wasmtime, and the sandbox
  test python              build the wheel, install it into a fresh environment, test it there
  test c                   the C face from C and C++ with gcc and clang, under AddressSanitizer and valgrind
  test go                  the Go package, vetted, and again under the race detector; `test` runs it too, where Go is
  test java                the Java package, where a JDK and Maven are; where the JDK is 22 or newer, with libmwa too; `test` runs it too
  test hashes              every WebAssembly runtime that is here: vectors, and one hash for all; installs from npm and PyPI
  test peft                PEFT writes adapters, mwa merges them, PEFT loads the merge; downloads PEFT and torch (large)
  test formats             PEFT, diffusers, llama.cpp, MLX, LyCORIS, Lightning, timm and torch load what mwa wrote; downloads them (large)
  test cloud               object stores: in memory, with faults; then the binary with moto, SeaweedFS and Azurite, which it downloads and starts
  test flower              Flower's own simulation of a federated round, with mwa's strategy; downloads Flower and Ray
  test ray                 merges by a local Ray cluster of two raylets, which lose workers and a node; downloads Ray
  test web                 the npm package in Node, Deno and Bun; `test` runs it too, where Node is
  test browser             the page in Chromium, with WebGPU and without; `test` runs it too, where Node and Chromium are
  test all                 `test` and `test peft`

  faults [COUNT]           merges whose system calls fail one by one, and merges that are killed: COUNT of them (100000);
                           `test` injects each call's share once, and kills a thousand. Linux, with a C compiler
  fuzz [MINUTES]           libFuzzer on every reader of bytes that strangers give (10), with nightly and cargo-fuzz;
                           `test` tries the same targets on their examples and on mutations of these
  miri                     the core's tests that Miri finishes in minutes, and the border to C; with nightly
  sanitize                 the host's tests under AddressSanitizer and ThreadSanitizer; with nightly

  supply                   licences, sources and build scripts as deny.toml allows them; advisories where cargo-deny is
                           installed and reaches their database
  sbom                     what the binary is linked with: target/sbom/mwa.cdx.json, CycloneDX

  vectors                  remake tests/vectors with the numpy oracle and show what changed

  bench [RUNS]             whole merges beside their floor (read all, write one) and, if they are there, other tools
  bench adapters [RUNS]    … eight LoRA checkpoints of a 7B model (0.7 GB of disk)
  bench full [RUNS]        … four full models of 1.1 GB (8 GB of disk)
  bench growth [RUNS]      … 1 to 64 LoRA checkpoints: time and memory by their number, with a picture (5 GB of disk)
  bench methods [RUNS]     … robust weights, medians, tasks over a base, an adapter folded, beside mergekit and PEFT; two models by
                           their moments (8 + 7 GB of disk); `bench methods curvature [small]` the last alone
  bench product [RUNS]     … the best rank-16 adapter: 4 small ones beside PEFT, 4 and 10 of a 7B model (0.9 GB of disk)
  bench search [RUNS]      … eight candidates of a search over ten of a 7B model, in one pass and afresh each, beside mergekit; the
                           driver's own time (0.9 GB of disk); `bench search small` with small ones
  bench rounds [RUNS]      … 50 clients of a federated round beside Flower's own aggregation (5 GB of disk)
  bench bindings [RUNS]    Python, C, Node and Java beside the binary, on the same eight; state dicts in memory beside a torch loop
  bench go [RUNS]          the Go package beside the binary with as many threads, on the same eight
  bench gpu [RUNS]         sums on each GPU beside copies; 8 × 512 MB by CPU, GPU and torch; where the time goes (5 GB of disk)
  bench kernels            GB/s of the sums per pair of dtypes, beside a plain copy; each checks its answer first
  bench plan               how long planning takes, by the number of tensors: models in many shards, adapters of many experts
  bench scale [RUNS]       what comes before the first byte of a merge of ten checkpoints of 2 TB, whose data is a hole: at most 10 s and 400 MB
  bench store [RUNS]       a merge out of an object store on this machine beside a plain parallel download of the same bytes, by curl
  bench wasm               the component under wasmtime beside one native thread, copies included, its start-up; jco in Node
  bench web                the npm package in Node and Chromium beside the native binary, its size, its memory

  model                    time and money of a merge of ten checkpoints of 2 TB, by nodes: the table of docs/cost.md
  model --check            CPU seconds of merges here beside the model's (5 GB of disk)

  release X.Y.Z            set the version everywhere, date the changelog, build and try all packages from a copy of the tree;
                           publishes nothing, and ends with what a person must type. With --dry-run this tree stays as it is

  machines                 check the program and the C library for Windows, macOS and Linux on ARM, by rustup's libraries

  ci                       what CI runs: fmt, supply, clippy, docs, the core without std, its dependencies, all tests

What is made lies in the target folder. Environment:

  MWA_REQUIRE=python,gpu,wasm,node,browser,deno,bun,go,java
                            fail where a test would be skipped for want of one of these
  MWA_CHROMIUM=PATH        the browser, if it is not /usr/bin/chromium
  MWA_PYTHON=PATH          use this interpreter, with what it has installed, instead of making an environment;
                           `bench` measures a torch loop only with one that has torch
  MWA_MERGEKIT=PATH        mergekit-yaml for `bench full` and `methods` (and mergekit-pytorch beside it for `bench search`), if it is not on the PATH
";

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        ["build"] => build(),
        ["build", "python"] => bindings::build_python_alone(),
        ["build", "c"] => c::build(),
        ["build", "component"] => component::build(),
        ["build", "component", "--check"] => component::check(),
        ["build", "web"] => web::package(),
        ["build", "go"] => go::build(),
        ["build", "java"] => java::build(),
        ["build", "page"] => web::page(),
        ["build", "docs"] => docs::build(),
        ["build", "release"] => release::build(None, None),
        ["build", "release", "sums"] => release::sums(),
        ["build", "release", part] => release::build(Some(part), None),
        ["build", "release", "binary", triple] => release::build(Some("binary"), Some(triple)),
        ["release", version] | ["release", version, "--dry-run"] | ["release", "--dry-run", version] => {
            release::release(version, arguments.contains(&"--dry-run"))
        }
        ["test", ref what @ ..] => test::test(what),
        ["faults"] => trials::faults("100000"),
        ["faults", count] if count.parse::<usize>().is_ok() => trials::faults(count),
        ["fuzz"] => trials::fuzz("10"),
        ["fuzz", minutes] => trials::fuzz(minutes),
        ["miri"] => trials::miri(),
        ["sanitize"] => trials::sanitize(),
        ["supply"] => supply::supply(),
        ["sbom"] => supply::sbom(),
        ["vectors"] => vectors::remake(),
        ["bench", "web"] => web::bench(),
        ["bench", ref what @ ..] => bench::bench(what),
        ["model"] => model::tables(),
        ["model", "--check"] => model::check(),
        ["machines"] => ci::machines(),
        ["ci"] => ci::ci(),
        [] | ["help" | "-h" | "--help", ..] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("`{}` is not a verb\n\n{HELP}", arguments.join(" "))),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("xtask: {message}");
            ExitCode::FAILURE
        }
    }
}

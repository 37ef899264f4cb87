# mwa alone in an image: the static program of a release, and nothing else.
#
#   cargo xtask build release binary
#   docker build -f Dockerfile -t mwa target/distribution/packed/mwa-*-x86_64-unknown-linux-musl
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" mwa merge run -o merged
FROM scratch
COPY mwa /usr/bin/mwa
COPY LICENSE-MIT LICENSE-APACHE /usr/share/doc/mwa/
WORKDIR /work
# where `mwa verify` makes a merge again, as whoever it runs as; it removes that
ENV TMPDIR=/work
ENTRYPOINT ["/usr/bin/mwa"]

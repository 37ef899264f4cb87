#!/bin/sh
# Install mwa from the archives of a release, each compared with its SHA-256 sum before it is opened.
#
#   sh install.sh [--version X.Y.Z] [--to FOLDER] [--from URL-OR-FOLDER]
#
# The program goes to FOLDER/bin (default ~/.local), with manual pages and completions under FOLDER/share. Nothing else is
# changed; running it again replaces what it installed. --from names a folder or another place that has the files of a release.
set -eu

fail() { echo "install.sh: $*" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || fail "needs $1, which is not on the PATH"; }

version='' to="${HOME:?}/.local" from=''
while [ $# -gt 0 ]; do
  case $1 in
    --version | --to | --from)
      [ $# -gt 1 ] || fail "$1 needs a value"
      case $1 in --version) version=${2#v} ;; --to) to=$2 ;; --from) from=${2%/} ;; esac
      shift 2 ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "$0"; exit ;;
    *) fail "does not know $1; see --help" ;;
  esac
done

case $(uname -s) in
  Linux) system=unknown-linux-musl ;;
  Darwin) system=apple-darwin ;;
  *) fail "there is no archive for $(uname -s); on Windows take the .zip of the release" ;;
esac
case $(uname -m) in
  x86_64 | amd64) triple=x86_64-$system ;;
  aarch64 | arm64) triple=aarch64-$system ;;
  *) fail "there is no archive for $(uname -m); build it: cargo install mwa-host" ;;
esac
need tar
if command -v sha256sum >/dev/null 2>&1; then sum() { sha256sum "$1"; }
else need shasum; sum() { shasum -a 256 "$1"; }; fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 1' HUP INT TERM

# a file of the release, into the scratch folder
get() {
  case $place in
    *://*) need curl; curl --proto '=https' --tlsv1.2 --fail --silent --show-error --location "$place/$1" -o "$scratch/$1" || fail "cannot get $place/$1" ;;
    *) cp "$place/$1" "$scratch/$1" || fail "$place holds no $1" ;;
  esac
}

releases=https://github.com/mwa-merge/mwa/releases
if [ -n "$from" ]; then place=$from
elif [ -n "$version" ]; then place=$releases/download/v$version
else place=$releases/latest/download; fi

get SHA256SUMS
if [ -z "$version" ]; then
  version=$(sed -n "s/^[0-9a-f]\{64\}  mwa-\([0-9.]*\)-$triple\.tar\.gz\$/\1/p" "$scratch/SHA256SUMS")
  [ -n "$version" ] || fail "the release has no archive for $triple"
fi
name=mwa-$version-$triple
wanted=$(sed -n "s/^\([0-9a-f]\{64\}\)  $name\.tar\.gz\$/\1/p" "$scratch/SHA256SUMS")
[ -n "$wanted" ] || fail "SHA256SUMS has no line for $name.tar.gz"
get "$name.tar.gz"
found=$(sum "$scratch/$name.tar.gz" | cut -d ' ' -f 1)
[ "$found" = "$wanted" ] || fail "$name.tar.gz is not what SHA256SUMS says: $found, not $wanted; nothing was installed"

tar -xzf "$scratch/$name.tar.gz" -C "$scratch"
"$scratch/$name/mwa" --version >/dev/null || fail "the program does not run here"
mkdir -p "$to/bin" "$to/share/man/man1" "$to/share/bash-completion/completions" "$to/share/zsh/site-functions" "$to/share/fish/vendor_completions.d"
# renamed into place: a program that runs meanwhile goes on
cp "$scratch/$name/mwa" "$to/bin/.mwa.new" && chmod 755 "$to/bin/.mwa.new" && mv -f "$to/bin/.mwa.new" "$to/bin/mwa"
if [ -d "$scratch/$name/man" ]; then
  cp "$scratch/$name"/man/man1/* "$to/share/man/man1/"
  cp "$scratch/$name/completions/mwa.bash" "$to/share/bash-completion/completions/mwa"
  cp "$scratch/$name/completions/_mwa" "$to/share/zsh/site-functions/_mwa"
  cp "$scratch/$name/completions/mwa.fish" "$to/share/fish/vendor_completions.d/mwa.fish"
fi
echo "installed mwa $version in $to/bin"
case :$PATH: in *":$to/bin:"*) ;; *) echo "$to/bin is not on the PATH: add it, or call $to/bin/mwa" ;; esac

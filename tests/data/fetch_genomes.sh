#!/usr/bin/env bash
# fetch_genomes.sh DIR [ecoli] [protein]   Put public sequences that are too large for the repository into DIR (default: both).
#
#   ecoli    DIR/ecoli_K12_MG1655.fa.gz    Escherichia coli K-12 MG1655, whole genome (RefSeq NC_000913.2), 4,639,675 bp
#   protein  DIR/uniprot_sample_20k.fa.gz  20,000 proteins out of UniProt, 9.1 million residues
#
# They come out of Debian's packages ragout-examples and mmseqs2-examples (Debian or Ubuntu; 28 MB to download, nothing is
# installed). A file that is already there and whole is left alone. Checksums are of the sequences, not of their compression.
set -euo pipefail

stop() { echo "fetch_genomes.sh: $*" >&2; exit 1; }

checksum() { gzip -dc "$1" 2>/dev/null | sha256sum | cut -d' ' -f1; }

# fetch PACKAGE PATH_IN_PACKAGE NAME SHA256
fetch() {
  local package=$1 inside=$2 target=$DIR/$3 wanted=$4
  if [ -e "$target" ] && [ "$(checksum "$target")" = "$wanted" ]; then echo "$target is already there"; return; fi
  echo "fetching $package" >&2
  apt-cache show "$package" >/dev/null 2>&1 || apt-get update -qq ||
    stop "apt knows no package $package and its lists cannot be refreshed; run 'apt-get update' as root, then this again"
  (cd "$WORK" && apt-get download -qq -o APT::Sandbox::User=root "$package") ||
    stop "the package $package cannot be downloaded; check the network and the sources of apt, then run this again"
  dpkg-deb -x "$WORK/$package"_*.deb "$WORK/$package" || stop "the package $package is damaged; run this again"
  [ -e "$WORK/$package/$inside" ] || stop "this version of $package holds no $inside; Debian 12's does"
  gzip -dc "$WORK/$package/$inside" | gzip -nc > "$WORK/$3"
  [ "$(checksum "$WORK/$3")" = "$wanted" ] || stop "$inside of $package has other contents than expected; Debian 12's package has the right ones"
  mv "$WORK/$3" "$target"
  echo "$target"
}

[ $# -ge 1 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
DIR=$1; shift
for tool in apt-get apt-cache dpkg-deb gzip sha256sum; do
  command -v "$tool" >/dev/null || stop "$tool is missing; this script needs Debian or Ubuntu"
done
mkdir -p "$DIR" || stop "the folder $DIR cannot be made"
WORK=$(mktemp -d "$DIR/.fetch.XXXXXX") || stop "the folder $DIR cannot be written to"
WORK=$(cd "$WORK" && pwd)
trap 'rm -rf "$WORK"' EXIT

[ $# -ge 1 ] || set -- ecoli protein
for group in "$@"; do
  case $group in
    ecoli) fetch ragout-examples usr/share/doc/ragout/examples/E.Coli/references/MG1655-K12.fasta.gz ecoli_K12_MG1655.fa.gz \
      3d70cf9dee928a6bf8f4763a3db0e0f8bf0ae32d25123a73f7a5bf2fe4d16828 ;;
    protein) fetch mmseqs2-examples usr/share/doc/mmseqs2/example-data/DB.fasta.gz uniprot_sample_20k.fa.gz \
      55d48bb7b86a6d275694e2f482307f772cc7ee0c9a6dacdbf4014a3443ac9809 ;;
    *) stop "no group '$group'; there are ecoli and protein" ;;
  esac
done

# count.sh FOLDER TOP OUT: an artifact is always a folder of files.
set -eu
LC_ALL=C
export LC_ALL
cat "$1"/* | tr -cs 'A-Za-z' '\n' | tr 'A-Z' 'a-z' | sort | uniq -c | sort -k1,1nr -k2,2 |
    awk -v top="$2" 'NF == 2 && n < top { n++; print $2 "\t" $1 }' > "$3/words.tsv"

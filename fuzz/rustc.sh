#!/bin/sh
# The compiler that it is given, with coverage for libFuzzer in the crates of this repository and in those that parse for them.
# What they compute with is not instrumented: it would be built again, and its branches say nothing of a reader.
name=
for word in "$@"; do
    if [ "$last" = --crate-name ]; then name=$word; fi
    last=$word
done
case " $* " in
    *" proc-macro "*) exec "$@" ;;
esac
case "$name" in
    adapters* | csv* | fancy_regex | minijinja* | safetensors | tokenizers | zip) ;;
    *) exec "$@" ;;
esac
exec "$@" -Ccodegen-units=1 -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares

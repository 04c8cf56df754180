#!/bin/sh
# prune.sh VENV: takes from installed packages what no task, no server and no command of mugv ever reads.
set -eu
cd "$(echo "$1"/lib/python3*/site-packages)"

# Tests, headers, static libraries, sources of extensions. torch keeps its own: it compiles kernels against its headers.
find . -path ./torch -prune -o -path ./triton -prune -o -type d \( -name tests -o -name test \) -prune -print0 | xargs -0 rm -rf
find . -path ./torch -prune -o -path ./triton -prune -o -type f \
    \( -name '*.a' -o -name '*.pxd' -o -name '*.pyx' -o -name '*.map' -o -name '*.pyi' \) -print0 | xargs -0 rm -f
rm -rf pyarrow/include pyarrow/src

# Arrow's network protocol, and copies of its libraries under second names.
rm -f pyarrow/libarrow_flight* pyarrow/libarrow_python_flight* pyarrow/_flight.*
for library in pyarrow/lib*.so.*.*.*; do
    [ ! -e "$library" ] || rm -f "$library" "${library%%.so*}.so"
done
# The library for C programs; Python's module holds the same code.
rm -f onnxruntime/capi/libonnxruntime.so.*
# Amazon's services, but for storage and for what signs a user in.
find botocore/data -mindepth 1 -maxdepth 1 -type d ! -name s3 ! -name sts ! -name 'sso*' ! -name signin -print0 | xargs -0 rm -rf

# Symbols for debuggers. Libraries in *.libs were rewritten by auditwheel, after which strip may damage them.
find . -path ./torch -prune -o -path ./triton -prune -o -path './nvidia' -prune -o -path './*.libs' -prune -o -type f -name '*.so*' -size +200k -print0 \
    | xargs -0 strip --strip-unneeded

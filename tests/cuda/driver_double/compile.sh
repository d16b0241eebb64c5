#!/bin/sh
# Compile the driver double: compile.sh FOLDER makes FOLDER/libcuda.so.1 (and the name that a linker looks for).
# CFLAGS adds to what the compiler is told.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
"${CC:-cc}" -shared -fPIC -O1 -g -Wall -Wextra -Werror -fvisibility=hidden -Wl,-soname,libcuda.so.1 ${CFLAGS:-} \
    -o "$1/libcuda.so.1.part" "$here"/*.c -ldl -lpthread
mv "$1/libcuda.so.1.part" "$1/libcuda.so.1"
ln -sf libcuda.so.1 "$1/libcuda.so"

#!/bin/sh
# Install pycuda on a machine without a GPU, for the tests that run it against the driver double.
#
#   tests/cuda/build_pycuda.sh [PYTHON]          # default: python3; needs a C++ compiler and the CUDA headers
#
# pycuda has no wheels and links against libcuda.so.1, which only a driver installs. Here it is linked against the
# double, which has every symbol that it names; on a machine with a GPU the driver's own library takes its place.
set -eu
python=${1:-python3}
version=2026.1
root=${CUDA_ROOT:-/usr/local/cuda}
here=$(cd "$(dirname "$0")" && pwd)
[ -f "$root/include/cuda.h" ] || { echo "build_pycuda: no $root/include/cuda.h; set CUDA_ROOT" >&2; exit 69; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
sh "$here/driver_double/compile.sh" "$work/stub"
"$python" -m pip download --quiet --no-deps --no-binary pycuda "pycuda==$version" -d "$work"
tar -xzf "$work/pycuda-$version.tar.gz" -C "$work"
cat > "$work/pycuda-$version/siteconf.py" <<END
CUDA_ROOT = "$root"
CUDA_ENABLE_CURAND = False
CUDADRV_LIB_DIR = ["$work/stub"]
CUDART_LIB_DIR = []
CURAND_LIB_DIR = []
CXXFLAGS = ["-w", "-O0"]
LDFLAGS = []
END
"$python" -m pip install --quiet --no-cache-dir "$work/pycuda-$version"

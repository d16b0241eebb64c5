#!/bin/sh
# Run the driver double's tests with several versions of cuda-bindings, the floor of pyproject.toml first.
#
#   tests/cuda/bindings.sh [PYTHON] [VERSION...]      # default: .venv/bin/python; needs a C compiler, no GPU
#
# Each version gets an environment of its own in .venv-bindings/, in front of what PYTHON has installed.
set -eu
cd "$(dirname "$0")/../.."
python=${1:-.venv/bin/python}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- 12.9.5 12.9.10 13.0.3 13.2.0 newest
installed=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
folder=.venv-bindings
mkdir -p "$folder"
sh tests/cuda/driver_double/compile.sh "$folder/double"
failed=
for version in "$@"; do
  home=$folder/$version
  wanted=cuda-bindings==$version
  [ "$version" = newest ] && wanted=cuda-bindings
  if [ ! -x "$home/bin/python" ]; then
    "$python" -m venv "$home"
    "$home/bin/python" -m pip install --quiet --disable-pip-version-check "$wanted" || { failed="$failed $version(install)"; continue; }
    echo "$installed" > "$("$home/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/below.pth"
  fi
  "$home/bin/python" -c 'import cuda.bindings as c; print("cuda-bindings", c.__version__)'
  LD_LIBRARY_PATH=$folder/double EDGETALKER_ON_DOUBLE=1 \
    "$home/bin/python" -m pytest -q -p no:cacheprovider tests/cuda/double || failed="$failed $version"
done
[ -z "$failed" ] || { echo "failed:$failed" >&2; exit 1; }

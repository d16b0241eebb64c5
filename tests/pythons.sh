#!/bin/sh
# Runs the device side's tests (numpy and ONNX Runtime, no torch) on every supported Python that is here.
# --lowest: on the oldest one, with the oldest versions that pyproject.toml allows.
set -eu
cd "$(dirname "$0")/.."
lowest=${1:-}
tests="tests/engines tests/runtime"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Built from a copy: the build folder of the checkout may be in use by tests that run beside this.
mkdir "$work/source"
cp -r edgetalker pyproject.toml README.md LICENSE "$work/source"
ran=0
for version in 3.10 3.11 3.12 3.13; do
  python=""
  for candidate in "python$version" "$HOME"/.pyenv/versions/"$version".*/bin/python; do
    # A version manager's shim may be on the PATH for a version that it does not provide.
    if "$candidate" -c 'import venv' >/dev/null 2>&1; then python=$candidate; break; fi
  done
  if [ -z "$python" ]; then
    echo "python$version: not here, not tested"
    continue
  fi
  echo "python$version: $("$python" --version), device side"
  "$python" -m venv "$work/$version"
  bin="$work/$version/bin"
  if [ "$lowest" = "--lowest" ]; then
    "$bin/python" -m pip install --quiet uv
    "$bin/uv" pip install --quiet --python "$bin/python" --resolution lowest-direct "$work/source[cpu,audio,net]" "onnx>=1.17"
    "$bin/uv" pip list --quiet --python "$bin/python" | grep -iE '^(numpy|onnxruntime|soundfile) ' || true
  else
    # The toy bundle is written by tests/support/toy.py with `onnx`, which the device side itself does not need.
    "$bin/python" -m pip install --quiet --no-compile "$work/source[cpu,audio,net]" onnx
  fi
  "$bin/python" -m pip install --quiet --no-compile pytest hypothesis python-osc
  (cd "$work" && "$bin/python" -c 'import edgetalker, sys; assert "site-packages" in edgetalker.__file__, edgetalker.__file__')
  PYTHONPATH= "$bin/python" -m pytest -q -p no:cacheprovider -m "not slow and not gpu" $tests
  ran=$((ran + 1))
  if [ "$lowest" = "--lowest" ]; then break; fi
done
if [ "$ran" -eq 0 ]; then
  echo "error: no supported Python is here" >&2
  exit 1
fi
echo "ran on $ran Python versions"

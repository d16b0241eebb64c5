# edgetalker: `make demo` does the main job, `make test` runs the tests; both set everything up by themselves.

PYTHON ?= python3
VENV ?= .venv
AUDIO ?= edgetalker/data/speech.wav
OUT ?= out
# The CPU build of PyTorch is enough and is taken where an index has it (its version ends in +cpu).
TORCH_VERSION ?= 2.13.0
TORCH ?= torch==$(TORCH_VERSION)
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# To compile all of a package takes longer than to unpack it: what is imported of it is compiled then, and kept for the
# hundreds of processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL = $(PIP) install --quiet --no-compile
TEST_EXTRAS = cpu,audio,net,view,serve,a2f-client,train,calibration,cuda,rtx,dev
# As many tests at a time as the machine has cores. Each process begins with a stretch of files, so that most files' tests
# stay together, and takes from the others when it has done its own.
JOBS ?= auto
PYTEST = EDGETALKER_TEST_STRICT=$(STRICT) $(VENV)/bin/pytest -n $(JOBS) --dist worksteal
FAST = -m "not slow and not gpu"
# STRICT=1 refuses to go on without what the microphone's tests need, and fails when a test was skipped for want of it.
STRICT ?=

.PHONY: setup demo fuzz coverage test test-fast test-slow test-all test-pythons test-lowest test-agents test-ray test-arm lint types format test-cuda-bindings test-torch-cuda bench gpu-check wheel wheelhouse clean check-python check-portaudio help

help:
	@echo "make demo [AUDIO=my.wav]   set up, animate a speech clip into $(OUT)/"
	@echo "make test [STRICT=1]       set up for development, lint, type check, run the tests; STRICT: none skipped"
	@echo "make wheel                 a wheel in dist/, which needs neither PortAudio nor PyTorch"
	@echo "make wheelhouse            all that a kiosk without a network needs, in wheelhouse/"
	@echo "make test-slow             the tests that take more than five seconds each"
	@echo "make coverage              the same as make test's, and which lines none of them runs"
	@echo "make fuzz                  changed inputs for an hour each; nothing but errors that say what is wrong"
	@echo "make test-agents           the plug-ins for Pipecat and LiveKit, in an environment of their own"
	@echo "make test-ray              the fleet on a Ray of this machine, and Triton's files, in an environment of their own"
	@echo "make test-pythons          the device side on every Python from 3.10 to 3.13 that is here"
	@echo "make test-lowest           the device side with the oldest versions that pyproject.toml allows"
	@echo "make test-arm              the talker on an emulated ARM core against this machine (qemu-user, Debian)"
	@echo "make test-torch-cuda       PyTorch for CUDA on the driver double, without a GPU (2.5 GB of wheels)"
	@echo "make bench                 latency tables of the bundles that ship with the package"
	@echo "make gpu-check             everything that needs an NVIDIA GPU; writes benchmarks/results/"
	@echo "make lint types format clean"

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "error: $(PYTHON) is `$(PYTHON) --version 2>&1`; Python 3.10 to 3.13 is wanted" >&2; \
	  echo "hint: apt-get install python3 python3-venv, or make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: this Python cannot make virtual environments" >&2; \
	  echo "hint: apt-get install python3-venv" >&2; exit 1; }

# PyAudio comes as source and is compiled against PortAudio's headers.
PORTAUDIO = command -v cc >/dev/null 2>&1 && printf '\043include <portaudio.h>\nint main(void){return 0;}' | cc -x c -fsyntax-only - 2>/dev/null
NO_PORTAUDIO = the microphone needs a C compiler and PortAudio's headers: apt-get install gcc python3-dev portaudio19-dev
check-portaudio:
	@{ $(PORTAUDIO); } || { echo "error: $(NO_PORTAUDIO)" >&2; exit 1; }

$(VENV)/bin/python:
	@$(MAKE) --no-print-directory check-python
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python pyproject.toml
	$(INSTALL) -e ".[cpu,audio,view]"
	@touch $@

$(VENV)/.torch: $(VENV)/bin/python
	$(INSTALL) "$(TORCH)+cpu" 2>/dev/null || $(INSTALL) "$(TORCH)"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	@if [ -n "$(STRICT)" ]; then $(MAKE) --no-print-directory check-portaudio; fi
	@mic=; if { $(PORTAUDIO); }; then mic=,mic; fi; set -x; $(INSTALL) -e ".[$(TEST_EXTRAS)$$mic]"
	@touch $@ $(VENV)/.runtime

setup: $(VENV)/.dev

demo: $(VENV)/.runtime
	@mkdir -p $(OUT)
	$(VENV)/bin/edgetalker animate "$(AUDIO)" -o $(OUT)/demo.csv -o $(OUT)/demo.glb -o $(OUT)/demo.png
	@echo
	@echo "the face, its sound and its curves:  $(OUT)/demo.png"
	@echo "an animated face for any 3D program: $(OUT)/demo.glb"
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ] && [ -t 1 ]; then \
	  echo "opening the face in a browser; Ctrl-C ends it"; \
	  $(VENV)/bin/edgetalker view "$(AUDIO)"; \
	else \
	  echo "to see and hear it in a browser, run the next line and open the address that it prints"; \
	  echo "  $(VENV)/bin/edgetalker view \"$(AUDIO)\" --port 8765 --no-browser"; \
	  echo "(from another machine: ssh -L 8765:127.0.0.1:8765 to this one first)"; \
	fi

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(VENV)/.dev
	$(VENV)/bin/mypy

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The types are checked beside the tests: mypy keeps one processor busy.
test: $(VENV)/.dev lint
	@$(MAKE) --no-print-directory -j2 types test-fast

test-fast: $(VENV)/.dev
	$(PYTEST) $(FAST)
	@{ $(PORTAUDIO); } || echo "not tested: $(NO_PORTAUDIO); STRICT=1 refuses this"

test-slow: $(VENV)/.dev
	$(PYTEST) -m "slow and not gpu"

# Which lines no test runs. Watching every line makes the tests half as long again, so it stands beside them.
coverage: $(VENV)/.dev
	$(PYTEST) $(FAST) --cov --cov-report=term:skip-covered

# FUZZ_ARGS="--seed 7 --seconds 60 checkpoints" tries one target for a minute.
FUZZ_ARGS ?= --seconds 3600
fuzz: $(VENV)/.dev
	$(VENV)/bin/python -m tests.fuzz $(FUZZ_ARGS)

test-all: test test-slow test-pythons test-lowest test-agents test-ray

# Pipecat and LiveKit want older packages than the other tests: an environment of their own.
test-agents: $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-agents
	$(VENV)-agents/bin/python -m pip install --quiet --no-compile --disable-pip-version-check ".[cpu,pipecat,livekit]" pytest hypothesis
	PYTHONPATH=. $(VENV)-agents/bin/python -m pytest -q -p no:cacheprovider -W default tests/agents

# Ray and Triton's client bring packages of their own, too; Ray starts a cluster on this machine.
RAY_TESTS = tests/serve/test_fleet.py tests/serve/test_triton.py tests/test_corpus.py
test-ray: $(VENV)/bin/python
	$(PYTHON) -m venv $(VENV)-ray
	$(VENV)-ray/bin/python -m pip install --quiet --disable-pip-version-check ".[ray]" "tritonclient[grpc]>=2.50" pytest hypothesis
	$(VENV)-ray/bin/python -m pip install --quiet --disable-pip-version-check --no-deps nvidia-audio2face-3d==1.3.0 nvidia-ace==1.0.0
	PYTHONPATH=. $(VENV)-ray/bin/python -m pytest -q -p no:cacheprovider -W default $(RAY_TESTS)

# The device side must run on every Python named in pyproject.toml: numpy, ONNX Runtime, no torch.
test-pythons:
	sh tests/pythons.sh

test-lowest:
	sh tests/pythons.sh --lowest

# Python, NumPy and ONNX Runtime as built for ARM, unpacked into a folder that is gone afterwards.
test-arm: $(VENV)/.dev
	$(VENV)/bin/python -m tests.arm $(ARM_BUNDLES)

# Every cuda-bindings that pyproject.toml allows, at its floor and a few above, on tests/cuda's stand-in for the driver.
test-cuda-bindings: $(VENV)/.dev
	sh tests/cuda/bindings.sh $(VENV)/bin/python

# PyTorch as it is built for CUDA, on tests/cuda's stand-in for the driver: needs CUDA's headers and a C compiler, no GPU.
TORCH_CUDA_VENV ?= .venv-torch-cuda
TORCH_CUDA ?= torch==2.11.0

$(TORCH_CUDA_VENV)/.done:
	@$(MAKE) --no-print-directory check-python
	$(PYTHON) -m venv $(TORCH_CUDA_VENV)
	$(TORCH_CUDA_VENV)/bin/python -m pip --disable-pip-version-check install --quiet "$(TORCH_CUDA)" "onnx>=1.19" -e ".[cpu,cuda,audio]" "pytest>=8" "hypothesis>=6.100"
	@touch $@

test-torch-cuda: $(TORCH_CUDA_VENV)/.done
	$(TORCH_CUDA_VENV)/bin/python -m tests.cuda.torch_on_double $(ARGS)

bench: $(VENV)/.runtime
	$(VENV)/bin/edgetalker bench

# On a machine with a GPU and no network this uses the Python that has PyTorch, not a virtual environment.
# ARGS="--soak" plays ten minutes on the clock; ARGS="--dry-run" tries what needs no GPU.
GPU_PYTHON ?= python3
gpu-check:
	$(GPU_PYTHON) benchmarks/gpu_check.py $(ARGS)

wheel: $(VENV)/bin/python
	$(PIP) wheel --quiet --no-deps -w dist .
	@ls dist/edgetalker-*.whl

# For a machine without a network: EXTRAS="cpu,audio,net" leaves the microphone out, which wants PortAudio's headers here.
EXTRAS ?= cpu,audio,net,mic
wheelhouse: $(VENV)/bin/python
	rm -rf wheelhouse
	$(PIP) wheel --quiet -w wheelhouse ".[$(EXTRAS)]"
	@echo "there: pip install --no-index --find-links wheelhouse \"edgetalker[$(EXTRAS)]\""

clean:
	rm -rf $(VENV) $(VENV)-agents $(VENV)-ray $(OUT) build dist wheelhouse *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

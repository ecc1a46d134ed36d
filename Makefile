# Two commands set everything up: `make demo` and `make test`. Both make .venv first; nothing else is touched,
# but for missing Debian packages, which are installed when root and named when not.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
APT := libegl1 libgl1

export MUJOCO_GL ?= egl
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint venv system clean

demo: venv system
	$(BIN)/omniad demo $(ARGS)

# The simulator's tests have a process of their own: its OpenGL's LLVM and numba's cannot share one (see omniad_ros/lab).
test: lint system
	$(BIN)/python -m pytest --ignore=test/test_sim.py $(ARGS)
	$(BIN)/python -m pytest test/test_sim.py

lint: venv
	$(BIN)/ruff check omniad_ros test launch setup.py
	$(BIN)/ruff format --check omniad_ros test launch setup.py

venv: $(VENV)/.installed

$(VENV)/.installed: requirements.txt requirements-ros.txt requirements-dev.txt setup.py
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' || \
	  { echo "omniad_ros needs Python 3.10 to 3.12; name one: make PYTHON=python3.11 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Install Python's venv module (Debian: python3-venv)."; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@echo "Installing about 7 GB of packages into $(VENV) (a few minutes) ..."
	$(BIN)/uv pip install --quiet --python $(BIN)/python 'setuptools>=70.1' -r requirements.txt -r requirements-ros.txt -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

system:
	@missing=""; for lib in libEGL.so.1 libGL.so.1; do $(PYTHON) -c "import ctypes; ctypes.CDLL('$$lib')" 2>/dev/null || missing="$$missing $$lib"; done; \
	if [ -n "$$missing" ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(APT) >/dev/null; \
	  else echo "Missing system libraries:$$missing. Install them first: sudo apt-get install $(APT)"; exit 1; fi; fi

clean:
	rm -rf $(VENV) build *.egg-info omniad_demo

# The front door: `make help`.
SHELL = /bin/sh
.DEFAULT_GOAL = help
AS_ROOT = $(AS_ROOT_BY_$(BY))
BY := $(shell if [ "$$(id -u)" -eq 0 ]; then echo SELF; else command -v sudo >/dev/null && echo SUDO; fi)
AS_ROOT_BY_SELF = sh scripts/as-root
AS_ROOT_BY_SUDO = sudo --preserve-env=VISCUM_REQUIRE_ALL sh scripts/as-root
AS_ROOT_BY_ = sh -c 'echo "not root and no sudo; next: as root, make $(MAKECMDGOALS)" >&2; exit 1'
PY = .venv/bin/python
PYTEST = $(AS_ROOT) $(PY) -m pytest
# Most tests wait most of the time: three at once (on two processors), who is free takes the next.
SPREAD = -n 3 --dist worksteal
ARGS =

# Those that have something to play
EXAMPLES = $(patsubst examples/%/play.py,%,$(wildcard examples/*/play.py))

.PHONY: examples $(EXAMPLES:%=example-%)
.PHONY: help setup demo test unit acceptance vm bench-quick bench-guard bench-controller paper lint format clean

# Asked first: hundreds of megabytes are not to be installed in vain.
demo test acceptance vm bench-quick bench-controller bench-guard paper: may-be-root
$(EXAMPLES:%=example-%): may-be-root
.PHONY: may-be-root
may-be-root:
	@$(AS_ROOT) true

help:  ## what there is
	@echo 'make TARGET [ARGS="more arguments"]'
	@sed -n 's/^\([a-z-]*\):.*## /  \1\t/p' Makefile | expand -t 18

setup:  ## packages, .venv with the viscum command, the BPF object; quick when all is there
	@sh scripts/setup

demo: setup  ## a real nginx and iperf3 moved onto a router under its clients' feet
	@$(AS_ROOT) .venv/bin/viscum demo $(ARGS)

test: setup  ## everything (as root, in its own namespaces; about ten minutes)
	@$(PYTEST) $(SPREAD) $(ARGS)

unit: setup  ## what needs neither root nor a kernel; seconds
	@$(PY) -m pytest tests/unit examples/*/unit $(ARGS)

acceptance: setup  ## everything, then requirement -> tests -> result -> figure
	@$(PYTEST) $(SPREAD) --acceptance $(ARGS)

vm: setup  ## on Debian 12's own kernel, in a virtual machine (about thirteen minutes)
	@$(AS_ROOT) sh scripts/vm/test $(ARGS)

bench-quick: setup  ## the figures of docs/performance.md, measured here
	@$(AS_ROOT) $(PY) scripts/bench_quick.py $(ARGS)

bench-controller: setup  ## the controller at rest with 100 services, and under load (8 minutes)
	@$(AS_ROOT) $(PY) scripts/bench_controller.py $(ARGS)

bench-guard: setup  ## a router under load with and without the load guard (six minutes)
	@$(AS_ROOT) $(PY) scripts/bench_guard.py $(ARGS)

examples: $(EXAMPLES:%=example-%)  ## all of examples/, each as example-NAME does (under 25 minutes)

$(EXAMPLES:%=example-%): example-%: setup
	@sh scripts/setup example $*
	@$(AS_ROOT) env PYTHONPATH=examples $(PY) examples/$*/play.py $(ARGS)
	@$(PYTEST) -n 2 --dist loadfile examples/$*

paper: setup  ## what the paper claims, measured: docs/paper.md (about twenty minutes)
	@sh scripts/setup example paper
	@wanted=$$(PYTHONPATH=examples $(PY) -m paper.measure --examples $(ARGS)) || exit; \
	  for e in $$wanted; do sh scripts/setup example $$e || echo "paper: without $$e" >&2; done
	@$(AS_ROOT) env PYTHONPATH=examples $(PY) -m paper.measure $(ARGS); status=$$?; \
	  PYTHONPATH=src:examples .cache/examples/paper/bin/python -m paper.report && \
	  $(PYTEST) -n 0 examples/paper && exit $$status

lint: setup  ## ruff and the type checker
	@.venv/bin/ruff check src tests scripts examples
	@.venv/bin/ruff format --check src tests scripts examples
	@.venv/bin/mypy

format: setup  ## let ruff put the code in order
	@.venv/bin/ruff check --fix src tests scripts examples
	@.venv/bin/ruff format src tests scripts examples

clean:  ## remove what setup and the tools made in this checkout
	rm -rf .venv .cache build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -rf src/viscum/bpf/*.o src/viscum/controller/console/static/vendor
	find src tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

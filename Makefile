# The doors. Everything is installed into .venv; nothing else on the machine is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1
# The CPU build of torch: 200 MB where the default one takes 3 GB of CUDA. For a GPU machine: TORCH= SERVE=cuda
TORCH ?= torch==2.13.0
SERVE ?= cpu
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: help install install-dev quickstart rewrite test proof lint bench-curation bench-kernels clean

help:        ## what can be made
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 16

install: $(VENV)/installed        ## CorpusMill in .venv
install-dev: $(VENV)/installed-dev    ## ... with what the tests need

$(VENV)/installed: pyproject.toml tools/install.sh
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/install.sh $(VENV) '.[$(SERVE)]'
	touch $@

$(VENV)/installed-dev: pyproject.toml tools/install.sh
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" sh tools/install.sh $(VENV) '.[dev,$(SERVE),trafilatura]'
	touch $(VENV)/installed $@

quickstart: install        ## the whole main job on real pages, crawl to trained model
	$(BIN)/corpusmill quickstart

rewrite: install        ## a real model rewrites what the quickstart crawled: a quarter of an hour, 93 MB fetched
	$(BIN)/python tools/smollm2.py .smollm2
	$(BIN)/corpusmill run configs/rewrite_smollm2.yaml rewrite/run

test: install-dev        ## the gate: at most 15 minutes on two cores, install included
	$(BIN)/python -m pytest -q -m "not proof"

proof: install-dev        ## what is long; writes docs/PROOF.md
	$(BIN)/python tests/proof/run.py

lint: install-dev        ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench-curation: install-dev    ## curation beside its peers, over an hour; WCXB=PATH adds real web pages
	PYTHONPATH=. $(BIN)/python -m benchmarks.curation --growth $(if $(WCXB),--wcxb $(WCXB))

bench-kernels: install    ## attention kernels beside PyTorch's, 9 minutes on a GPU; tiny shapes without one
	PYTHONPATH=. $(BIN)/python -m benchmarks.kernels $(if $(wildcard /dev/nvidiactl),,--tiny)

clean:       ## remove the environments and what the quickstart and benchmarks made
	rm -rf $(VENV) .peers .corpora .smollm2 quickstart rewrite

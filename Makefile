# `make quickstart` and `make test` need Python 3.11 or newer with its venv; everything else goes into .venv.
PYTHON ?= python3
BIN := .venv/bin
# Two files of tests run side by side; with the slow ones first, none is left to run alone at the end.
SLOW_FIRST := tests/training/test_resume.py tests/pipelines tests/training tests

.PHONY: quickstart test fast check faults long ecoli ecoli-masked protein clean

quickstart: .venv/.installed  ## phage genomes -> tokens -> two workers -> evaluation -> report
	$(BIN)/python -m pipelines.quickstart

ecoli: data/genomes/ecoli_K12_MG1655.fa.gz  ## E. coli K-12, causal: 20 minutes on two cores
	$(BIN)/hyena-glt preprocess ecoli.yaml
	$(BIN)/hyena-glt pretrain ecoli.yaml --output_dir runs/ecoli
	$(BIN)/hyena-glt evaluate --model_path runs/ecoli
	$(BIN)/hyena-glt report --checkpoint_dir runs/ecoli --output_dir runs/ecoli/report

ecoli-masked: data/genomes/ecoli_K12_MG1655.fa.gz  ## the same data, masked
	$(BIN)/hyena-glt preprocess ecoli_masked.yaml
	$(BIN)/hyena-glt pretrain ecoli_masked.yaml --output_dir runs/ecoli_masked
	$(BIN)/hyena-glt evaluate --model_path runs/ecoli_masked

protein: data/genomes/uniprot_sample_20k.fa.gz  ## UniProt records with the amino-acid tokenizer
	$(BIN)/hyena-glt preprocess protein.yaml
	$(BIN)/hyena-glt pretrain protein.yaml --output_dir runs/protein
	$(BIN)/hyena-glt evaluate --model_path runs/protein --metrics mlm_accuracy,perplexity,bits_per_base,bleu

data/genomes/ecoli_K12_MG1655.fa.gz: .venv/.installed
	tests/data/fetch_genomes.sh data/genomes ecoli

data/genomes/uniprot_sample_20k.fa.gz: .venv/.installed
	tests/data/fetch_genomes.sh data/genomes protein

test: .venv/.installed  ## the suite, 25 minutes on two slow cores
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not long" $(SLOW_FIRST)

fast: .venv/.installed  ## the suite without what takes long
	$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

check: .venv/.installed  ## lint, and types where they are complete
	$(BIN)/ruff check .
	$(BIN)/mypy

faults: .venv/.installed  ## ten faults done to a run on a cluster of this machine, and a range of workers: a quarter of an hour on two cores
	$(BIN)/python -m tests.faults.run --faults 10
	$(BIN)/python -m pytest -q tests/faults/test_range.py

long: data/genomes/ecoli_K12_MG1655.fa.gz ecoli ecoli-masked protein  ## longer runs and benchmarks; their logs are committed under tests/benchmarks/results
	$(BIN)/python -m pytest -q -m long
	$(BIN)/python tests/benchmarks/operators_cpu.py
	$(BIN)/python tests/benchmarks/fuzz_inputs.py 22000
	$(BIN)/python tests/long/sweep.py --trials 64
	$(BIN)/python -m tests.faults.run --faults 200
	$(BIN)/python -m tests.faults.run --faults 20 --range
	$(BIN)/python tests/long/kill_preprocessing.py $< --set tokenization.stride=1 output.chunk_size=20000

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

# torch first and on its own, so that the rest is resolved around the build that this machine has.
.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is $$($(PYTHON) -V 2>&1), and Python 3.11 or newer is needed; try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv .venv || { echo "error: $(PYTHON) has no venv; on Debian or Ubuntu: apt install python3-venv"; exit 1; }
	$(BIN)/pip install -q -c constraints.txt torch
	DS_BUILD_OPS=0 $(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

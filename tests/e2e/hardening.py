"""What a compiler and a linker did for a program, read from its file by readelf: for the built programs, the static
ones of the archive, and those of the Debian package."""
import re
import subprocess

FORTIFIED = b"buffer overflow detected"


def readelf(path, *options):
    return subprocess.run(["readelf", "-W", *options, str(path)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                          text=True, errors="replace", check=True).stdout


def segments(path):
    """(type, flags) of each program header; the flags are some of "RWE"."""
    found = re.findall(r"^ +([A-Z_]+) +0x\S+ 0x\S+ 0x\S+ 0x\S+ 0x\S+ ([R ][W ][E ]) ", readelf(path, "-l"), re.M)
    return [(kind, flags.replace(" ", "")) for kind, flags in found]


def imports(path):
    """The names that a dynamic program takes from libraries."""
    return set(re.findall(r" UND ([^@\s]+)", readelf(path, "--dyn-syms")))


def producers(path):
    """What gcc noted of its switches, a line for each way that files were compiled; none where nothing was noted."""
    return [line for line in readelf(path, "-p", ".debug_str").splitlines() if re.search(r"\bGNU C\d", line)]


def sanitized(path):
    return any(name.startswith(("__asan", "__ubsan")) for name in imports(path))


def layout_faults(path):
    """What is not as it should be in the program's file, whether it needs libraries or not."""
    faults, parts, dynamic = [], segments(path), readelf(path, "-d")
    loaded = [flags for kind, flags in parts if kind == "LOAD"]
    flags_1 = re.search(r"\(FLAGS_1\) +Flags: (.*)", dynamic)
    words = flags_1.group(1).split() if flags_1 else []
    if not re.search(r"Type: +DYN ", readelf(path, "-h")) or "PIE" not in words:
        faults.append("not position independent")
    if not [kind for kind, _ in parts if kind == "GNU_RELRO"] or "NOW" not in words:
        faults.append("no full RELRO")
    if [flags for kind, flags in parts if kind == "GNU_STACK"] != ["RW"]:
        faults.append("its stack can be executed")
    if not loaded or [flags for flags in loaded if "W" in flags and "E" in flags]:
        faults.append("memory that is written and executed")
    if not loaded or loaded[0] != "R":
        faults.append("its headers can be executed")
    if re.search(r"\((TEXTREL|RPATH|RUNPATH)\)", dynamic):
        faults.append("it changes its own code, or looks for libraries in folders of its own")
    return faults


def checked_calls(path):
    """The functions of libc that the program has in their checking form."""
    return {name for name in imports(path) if re.fullmatch(r"__\w+_chk", name)}


def static_faults(path):
    """The same for a program that has libc in itself; its names are gone, its messages are not."""
    with open(path, "rb") as f:
        content = f.read()
    return layout_faults(path) + ["no " + word.decode() for word in (FORTIFIED, b"stack smashing detected")
                                  if word not in content]


def dynamic_faults(path):
    faults = layout_faults(path)
    if "__stack_chk_fail" not in imports(path):
        faults.append("no stack protector")
    if len(checked_calls(path)) < 3:
        faults.append("no fortified calls")
    return faults

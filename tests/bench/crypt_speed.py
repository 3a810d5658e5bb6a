#!/usr/bin/python3
"""How long crypt(3) alone takes for one check of a hash, on as many cores at once as there are: crypt_speed.py HASH
SECONDS. Prints the microseconds of a core for one check, and how many a second all cores did by the clock on the wall."""
import concurrent.futures
import ctypes
import os
import sys
import time


def measure(what):
    setting, seconds = what
    crypt = ctypes.CDLL("libcrypt.so.1").crypt
    crypt.restype = ctypes.c_char_p
    count, begun, used = 0, time.monotonic(), time.thread_time()
    while time.monotonic() - begun < seconds:
        crypt(b"nobody's", setting.encode())
        count += 1
    return count, time.thread_time() - used, time.monotonic() - begun


def main():
    setting, seconds, cores = sys.argv[1], float(sys.argv[2]), len(os.sched_getaffinity(0))
    with concurrent.futures.ProcessPoolExecutor(cores) as pool:
        found = list(pool.map(measure, [(setting, seconds)] * cores))
    checks = sum(count for count, _, _ in found)
    print("%.1f %.2f" % (sum(used for _, used, _ in found) / checks * 1e6, checks / max(wall for _, _, wall in found)))


if __name__ == "__main__":
    main()

"""libfaketime, and what it leaves behind: each program under it makes two files of shared memory by its own number, and
takes them away only when it ends by itself. Left there, they would stop another program of the same number."""
import contextlib
import os

LIBRARY = "/usr/lib/%s-linux-gnu/faketime/libfaketimeMT.so.1" % os.uname().machine
LEFT = ("/dev/shm/faketime_shm_%d", "/dev/shm/sem.faketime_sem_%d")


def forget(processes):
    """What these, ended and of our own, have left."""
    for process in processes:
        assert process.poll() is not None, "it runs"
        for name in LEFT:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name % process.pid)

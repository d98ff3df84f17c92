"""A Python module that ends with the process that started it: `python -m flows.bound MODULE ARGUMENT …`."""

import runpy
import signal
import sys

from flows.service.processes import LIBC, PR_SET_PDEATHSIG

if __name__ == "__main__":
    if LIBC:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)

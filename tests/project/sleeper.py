"""A child for test_children.py: adopted, it says so and sleeps. Its argument names the way it is to be ended by."""

import ctypes
import os
import sys
import time

from app.children import PARENT, PR_SET_PDEATHSIG, adopt

if __name__ == "__main__":
    if sys.argv[1] == "late":
        print("not adopted", flush=True)
        time.sleep(60)
    if sys.argv[1] == "signal":
        # The pipe's writing end kept open here: its end of file never comes.
        pid, _ = os.environ[PARENT].split(":")
        kept_open = os.pipe()
        os.environ[PARENT] = f"{pid}:{kept_open[0]}"
    assert adopt()
    if sys.argv[1] == "pipe":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
    print("adopted", flush=True)
    time.sleep(60)

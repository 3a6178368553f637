"""Internal: the process in which AIPerf runs. See harness/launch.py.

Usage: launch_aiperf.py KEY_FD profile …    Exit: AIPerf's own.
"""

import sys

from harness.launch import main

if __name__ == "__main__":  # AIPerf's own processes import this file again where they are spawned
    main(sys.argv[1:])

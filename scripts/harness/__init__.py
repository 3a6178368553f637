"""The harness around NVIDIA AIPerf: what AIPerf leaves out. See ARCHITECTURE.md for the rooms."""

from harness.interrupts import quiet_imports

quiet_imports()

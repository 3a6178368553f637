"""AIPerf's export files, one module a kind of file. `harness.records` is the way in."""

"""A streaming OpenAI-compatible chat endpoint with known delays, for tests, trials and calibration.

    behaviour.py  what the endpoint does: delays, lengths, faults    (values only)
    script.py     one request -> the script of its answer: which bytes are due when    (pure)
    truth.py      the truth log: when each answer was really written
    server.py     plays scripts over HTTP (aiohttp)
    options.py    the command line -> Behaviour

Each token is due at an absolute time, so that late timers don't add up; timers count in whole
milliseconds, so a single token may be up to 1 ms off, a mean over many is not. What was really
done stands in the truth log, which is what to compare a measurement with.

Measured on two cores, shared with the client that drove it and with other work (load 2.5 to 5;
uvloop 0.23, aiohttp 3.14, Python 3.12; `tests/bench/bench_simulator_limit.py`):
- 200 streams at an ITL of 10 ms: 18,000 chunks/s, median ITL 9.99 ms, p99 10.2 ms;
- 400 streams: kept up (34,000 chunks/s) while the machine was idle, not while busy (ITL 12.4 ms);
- without pauses: 43,000 chunks/s in long answers, or 4,400 answers/s of one token
  (59,000 and 7,000 on the idle machine, from a client on uvloop).
AIPerf at concurrency 10 measured a median TTFT 0.9 ms above the truth log's while the machine was
idle, 2.9 ms while busy; its ITL was within 0.01 ms (`tests/bench/bench_simulator.py`).
"""

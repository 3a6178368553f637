"""A streaming OpenAI-compatible chat endpoint with known delays, for tests, trials and calibration.

behaviour.py  what the endpoint does: delays, lengths, faults    (values only)
script.py     one request -> the script of its answer: which bytes are due when    (pure)
truth.py      the truth log: when each answer was really written
server.py     plays scripts over HTTP (aiohttp)
options.py    the command line -> Behaviour
"""

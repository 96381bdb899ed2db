"""Measurements: codexd beside the bare app-server, in one run, on one scripted model. `make bench`."""

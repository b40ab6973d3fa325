"""This server beside its peers, on the same data, in the same run: `make bench` (`python -m benchmarks.compare`)."""

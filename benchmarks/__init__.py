"""What `make bench` measures: each bar of the design as a ratio to its reference, both in the same run."""

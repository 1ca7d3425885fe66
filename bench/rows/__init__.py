"""The rows of `make bench`, one a file. `bench/frame.py` says what a row is; a new one needs no entry elsewhere."""

"""What a completed scan leaves behind: its raw data (Parquet), a plot (PNG), a summary (JSON).

Made in one walk over its frames, in chunks: whatever the size of the scan, only a chunk of it is in memory. The same events
make the same bytes, on any machine with the same libraries: no time of now, no random number, no sum whose order is left open.
"""

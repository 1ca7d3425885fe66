"""`make bench`: our numbers as ratios, each measured in one run beside what it is compared with.

    python -m bench                       every row, about five minutes
    python -m bench --quick               one short repetition of each, under a minute: does it run, is the order right
    python -m bench --only replay         one row (or several: --only replay,memory)

A row is a file in `bench/rows`; the folder is the list. It measures a *reference* and *ours* in turn (A B A B A B), on
the same private servers and the same event loop, and the ratio of the medians is held against a floor, which must not
be missed, and an aim. Numbers of different runs, or of different machines, are not comparable; ratios nearly are.
"""

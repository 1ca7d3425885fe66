"""The systems that we are compared with, each a script of its own.

They run as child processes, with an interpreter that has them (`--peers-python`, or ours when the extra `bench` is
installed), and print one JSON line: `{"value": ..., "version": ..., ...}`. They import nothing of ours.
"""

"""Images of plots become numbers: one file for each step, each a function over arrays.

picture -> frame -> words -> ticks -> axes -> ink -> trace -> names -> check; `extract` puts them together.

Importing this package needs none of the heavy libraries; the extra `labledger[curves]` brings them.
"""

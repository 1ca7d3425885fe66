"""From the restart of everything after kill -9 to the first new point of the interrupted scan.

With a million events of history (a hundred thousand in a quick run). Ours only: no system that we know resumes a scan.
"""

name = "kill -9 -> first new point"
unit = "s"
floor, aim = 5.0, 2.0
absolute = True
reference_name = "none: no peer resumes"
higher_is_better = False

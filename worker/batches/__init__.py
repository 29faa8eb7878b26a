"""Batches of any size: quoted, imported, run by the workers, read while they run, reported.

continuing    A file of answers that is continued: how far it is
converting    The command line that converts a file
daily         Windows of the day: `HH:MM-HH:MM`, in which bulk work may run
file_lines    A line of a stored batch file, with OpenAI's codes for what is wrong with it
formats       What a file is, by its first bytes
from_file     A batch that is made of a stored file is read, checked and imported by a worker
importing     Submit: a surveyed file becomes a batch and its lines become jobs
keeper        The batch keeper
line_text     A line that is over as OpenAI's files have it
output_files  A batch's output and error files, which grow in the store
output_paths  Where answers may be written: files are the user's, and nothing of theirs is destroyed
pipes         Outputs that are no files: stdout, descriptors, devices and FIFOs
pace          Pace: how many calls in flight end a batch by a given time, and no more
progress      How far a batch is and how fast it goes, from its counters alone
quote         The quote: tokens, cost and time of a surveyed file
reading       Reading a batch file
repeats       Which keys stand twice in a file, and where first: exactly, in 20 bytes a line
report        The report: what became of a batch, in numbers
report_files  The report as files beside the output
result_files  An output file and an error file
results       Results
shapes        JSON lines and texts of other makings, and what makes a batch file of them
survey        The survey
view          A batch as OpenAI's batch object, with our additions behind it
"""

from __future__ import annotations

"""Batches of any size: quoted, imported, run by the workers, read while they run, reported.

reading       a file, gzip or stdin as numbered lines          repeats      what stands twice: ids, requests
survey        the whole file, validated: what is in it         quote        what it will cost, and how long it takes
importing     lines become jobs, resumable                     control      pause, resume, cancel, retry the failed
results       lines that are over, from any offset             line_text    as OpenAI's lines
result_files  output and error file, also growing              report       what became of it
"""

from __future__ import annotations

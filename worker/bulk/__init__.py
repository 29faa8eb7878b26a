"""Batches of any size: quoted, imported, run by the workers, read while they run, reported.

reading       a file, gzip or stdin as numbered lines          custom_ids   which ids stand twice
survey        the whole file, validated: what is in it         quote        what it will cost, and how long it takes
importing     lines become jobs, resumable                     control      pause, resume, cancel, retry the failed
results       answered lines as OpenAI's files                 report       what became of it
"""

from __future__ import annotations

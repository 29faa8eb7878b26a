"""Batches as SQL. The caller commits.

changes   What may be asked of a batch that exists: hold it, let it go on, cancel it
claims    Which batches admit lines now, and how many: what the feeder asks before it claims
export    Reading a batch's lines: in the order of the file, or in the order in which they ended
keeping   What the batch keeper writes
line_ids  The ids of a batch's lines, in either order, without what the lines are
lines_in  Import: the lines of a batch become jobs, a slice at a time
records   Batches: made, read, counted, ended
report    What a batch's report is made of
retry     The lines of a batch that have no answer and may have one yet
stored    Batches that are made of stored files: created, read by a worker, refused, and given files of their own
tables    The batches: one row each, with its counters
"""

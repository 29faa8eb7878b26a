"""`stockpot batch …`.

change    `stockpot batch cancel`, `pause`, `resume`, `retry-failed` and `list`
group     `stockpot batch`: files of requests, from a quote to the results
options   Values that only batches take: moments ahead and windows of the day
progress_line  How a batch goes, while people wait: one line, and a sentence for each change of what it waits on
problems  Problems of a batch file by kind: two hundred lines with the same mistake are one line of words
report    A batch as a table for people, and `stockpot batch report`
results   `stockpot batch results`: the answered lines in OpenAI's output format, at any time
submit    `stockpot batch quote` and `stockpot batch submit`
watch     `stockpot batch status`, and the wait of `batch submit`: a batch followed to its end
"""

"""Calls of the HTTP gateway as SQL: what stands beside a job that came over OpenAI's wire. The caller commits.

limits   What a key may do: counted from its calls, under a lock on its row
records  Accept a call or join one, find and list them, forget their contents
tables   The table of calls
"""

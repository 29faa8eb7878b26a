"""Calls of the HTTP gateway as SQL: what stands beside a job that came over OpenAI's wire. The caller commits.

limits   What a key and a tenant may do: counted from their calls, under a lock on their row
records  Accept a call or join one, find and list them, forget their contents
tables   The tables of calls and of the tenants' limits
tenants  What all callers of a tenant together may do
"""

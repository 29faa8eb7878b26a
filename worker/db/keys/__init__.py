"""Keys of the HTTP gateway as SQL. The caller commits.

records  Create, find by what the caller sent, list, rotate, revoke
tables   The table of keys
"""

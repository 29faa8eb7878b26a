"""What the dashboard keeps: who is signed in, and who pressed what. The caller commits.

actions   The log of who pressed what: written before anything is done, completed with what came of it
sessions  Sessions of browsers: begun with a key, found by their cookie, ended
tables    The two tables
"""

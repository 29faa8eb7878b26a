"""All SQL, named after the verbs of a job's life. The engine runs it in a few threads; a caller commits.

batches/   Batches as SQL
beginnings  Ids by how they begin, for people who type them
bookmarks  Bookmarks: where a long walk goes on after it was broken off
bounded    A connection to PostgreSQL that waits for an answer for so long, and no longer
budgets/   Budgets as SQL
calls/     Calls of the HTTP gateway as SQL
clock      The database's clock, as SQL
compacting  Compacting: the space of purged rows goes back to the disk
columns    What every table is made of
copying    Moving to another database: every row, in slices, resumed where it was broken off, and compared at the end
connect    The connection to the database: PostgreSQL through psycopg 3, or SQLite in WAL mode
dashboard/  What the dashboard keeps: who is signed in, and who pressed what
files/     Stored files as SQL
group_writer  Group commit
fleet      The fleet in numbers, for gauges, `stockpot top`, `status` and the dashboard
identity   Who a database is
jobs/      Jobs as SQL, by the verbs of their life
keys/      Keys of the HTTP gateway as SQL
purge      Purge
payloads   Encrypted columns: which they are, and encrypting them again with a new key
ownership  What in a database is Stockpot's, and what is another program's
rates/     What the fleet does over time, for plots
ready      Whether the database may be used: the one rule of who migrates what
refusals   Rows that the database refuses to change: each is set aside, and stops no other
recordset  Many rows in one parameter: a JSON list that PostgreSQL reads as a table
revisions  Where the migrations are, and the newest
schema     The schema's versions: upgrade, current, check
snapshots  Snapshots that others hold
sqlite_file     The file of a SQLite database: made for its owner alone
sqlite_writers  Who writes to a SQLite file
threads    SQL off the event loop: a few threads, and patience for a database that is away
url        The database's URL: what it may hold, and why the rest is refused
sums       Sums that stop at their end
versions   Which revision a database is at, against the one that this version of Stockpot needs
views      The views: the stable surface that people read with SQL
workers/   Worker processes as SQL: who lives, with what load, and who was asked to drain
webhooks/  Webhook endpoints, events and attempts as SQL
"""

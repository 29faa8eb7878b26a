"""What the fleet does over time, in whole minutes and more: for plots. The caller commits.

records  Add what a worker did in a minute; read an hour, a day, a week
tables   The table
"""

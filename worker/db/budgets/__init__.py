"""Budgets as SQL. The caller commits.

reservations  Budgets
tables        The budgets table
"""

"""Budgets as SQL. The caller commits.

budget        A budget as its row and its reservations show it
reservations  Budgets
tables        The budgets table
"""

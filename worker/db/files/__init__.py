"""Stored files as SQL: their rows, and their bytes in pieces.

pieces   The bytes of a file, in pieces: written in order, read from any byte
records  Files: begun, finished, read, listed, deleted, expired, collected
tables   The files and their pieces
"""

"""Stored files: where their bytes are, written as they come and read from any byte, in flat memory.

collector  What deleted, expired and broken-off files leave behind is removed
place      Where the bytes of files are kept outside the database: a folder, S3, Google's storage
reading    A stored file's bytes, from any byte, a piece at a time
resealing  Encrypting again what is kept, with the first key
upload     An upload: bytes become a file as they come, and the file is there when the last has come
"""

from __future__ import annotations

"""All SQL, named after the verbs of a job's life. The engine runs it in a few threads; a caller commits."""

"""One session in Python: what it holds, when it ends, what has changed in it."""

"""What is in Redis, and what is said to it. Nothing here does I/O."""

"""The storages that sessions can be migrated from. Nothing here does I/O."""
